"""Codecs, which turn images into latents and latents into images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meanflow.codecs.autoencoder_kl import AutoencoderKLCodec
from meanflow.codecs.codec import Codec, Moments
from meanflow.codecs.identity import IdentityCodec
from meanflow.codecs.quantize import round_half_up_to_uint8, round_to_uint8, truncate_to_uint8

__all__ = [
    "AutoencoderKLCodec",
    "Codec",
    "IdentityCodec",
    "Moments",
    "build",
    "round_half_up_to_uint8",
    "round_to_uint8",
    "truncate_to_uint8",
]

CODECS: dict[str, type[Codec]] = {"identity": IdentityCodec, "autoencoder_kl": AutoencoderKLCodec}


def build(config: Mapping[str, Any]) -> Codec:
    """Return the codec of a recorded configuration.

    Args:
        config: ``Codec.config``, as a manifest or a checkpoint records it.

    Raises:
        ValueError: If the name is unknown, or an argument is unknown or not allowed.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in CODECS:
        raise ValueError(f"codec.name must be one of {sorted(CODECS)}, got {name!r}")
    try:
        return CODECS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"codec {name!r} does not take the arguments {arguments}: {error}") from error
