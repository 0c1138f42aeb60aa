"""What every codec offers: images in, moments of latents out, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Posterior of an encoder over raw (not normalised) latents.

    Attributes:
        mean: Mean ``(B, C, h, w)``, or the latents themselves if the encoder is deterministic.
        std: Standard deviation, same shape (not the log-variance); ``None`` if the encoder is deterministic.
    """

    mean: Tensor
    std: Tensor | None


class Codec(ABC):
    """Maps images to latents and back. Plain object: its weights belong to no checkpoint of ours.

    Attributes:
        config: ``{"name": ..., **constructor arguments}``, from which ``meanflow.codecs.build`` makes the codec again.
    """

    config: dict[str, Any]

    @property
    @abstractmethod
    def image_channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for RGB."""

    @property
    @abstractmethod
    def scaling_factor(self) -> float:
        """What latents are usually multiplied by before a network sees them; 1 for none."""

    @abstractmethod
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of images of this height and width.

        Raises:
            ValueError: If the codec cannot divide the resolution.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a checksum of the weights: equal settings do not mean equal weights."""

    @abstractmethod
    def prepare(self) -> None:
        """Fetch whatever the codec needs; it would be fetched at first use otherwise.

        Raises:
            FileNotFoundError: If it cannot be had.
        """

    def accelerate(self, dtype: torch.dtype, compile: bool) -> None:  # noqa: B027 (most codecs have nothing to do)
        """Decode faster from now on, at lower precision and compiled, if there is something to gain."""

    @abstractmethod
    def encode(self, images: Tensor) -> Moments:
        """Return the posterior of images ``(B, channels, H, W)`` in [-1, 1]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return images ``(B, channels, H, W)``, nominally in [-1, 1], for raw latents ``(B, C, h, w)``."""
