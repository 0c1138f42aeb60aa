"""Types of diffusers' ``AutoencoderKL``, whose own annotations do not show that it is a module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class AutoencoderConfig(Protocol):
    """Settings of an autoencoder."""

    in_channels: int
    latent_channels: int
    block_out_channels: tuple[int, ...]
    scaling_factor: float


class Posterior(Protocol):
    """Normal distribution over raw latents ``(B, C, h, w)``."""

    mean: Tensor
    std: Tensor
    var: Tensor


class EncoderOutput(Protocol):
    """Output of ``Autoencoder.encode``."""

    latent_dist: Posterior


class DecoderOutput(Protocol):
    """Output of ``Autoencoder.decode``."""

    sample: Tensor


class Convolution(Protocol):
    """A 1 x 1 convolution on the latents."""

    weight: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> object:
        """Change the data type of the weights."""
        ...


class Autoencoder(Protocol):
    """The part of ``AutoencoderKL`` that this project uses."""

    config: AutoencoderConfig
    decoder: nn.Module
    quant_conv: Convolution | None
    post_quant_conv: Convolution | None

    def encode(self, x: Tensor) -> EncoderOutput:
        """Return the posterior over the raw latents of images."""
        ...

    def decode(self, z: Tensor) -> DecoderOutput:
        """Return the images of raw latents."""
        ...

    def to(self, device: torch.device) -> Autoencoder:
        """Move the weights to a device; return the autoencoder itself."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights."""
        ...

    def register_to_config(self, **settings: float | None) -> None:
        """Change settings."""
        ...

    def save_pretrained(self, folder: Path) -> object:
        """Write weights and settings in diffusers' format."""
        ...
