"""The interface of codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Posterior of an encoder over raw (not normalized) latents.

    Attributes:
        mean: Mean ``(B, C, h, w)``; the latents themselves if the encoder is deterministic.
        std: Standard deviation (not the log-variance) of the same shape; ``None`` if the encoder is deterministic.
    """

    mean: Tensor
    std: Tensor | None


class Codec(ABC):
    """Maps images to latents, and latents to images. A codec is no module: checkpoints do not hold its weights.

    Attributes:
        config: ``{"name": ..., **constructor arguments}``, from which ``meanflow.codecs.build`` builds an equal codec.
    """

    config: dict[str, Any]

    @property
    @abstractmethod
    def image_channels(self) -> int:
        """Channels of the images: 1 for gray, 3 for RGB."""

    @property
    @abstractmethod
    def scaling_factor(self) -> float:
        """Factor that latents are usually multiplied by before a network sees them; 1 for no scaling."""

    @abstractmethod
    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of square images.

        Args:
            resolution: Height and width of the images, in pixels.

        Raises:
            ValueError: If the codec does not take images of this resolution.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a checksum of the weights. Codecs of equal ``config`` can have different weights."""

    @abstractmethod
    def prepare(self) -> None:
        """Load the weights now instead of at the first use.

        Raises:
            FileNotFoundError: If the weights cannot be loaded.
        """

    def accelerate(self, dtype: torch.dtype, compile: bool) -> None:  # noqa: B027 (most codecs have nothing to do)
        """Decode faster from now on, if the codec can.

        Args:
            dtype: Data type of the decoder's products.
            compile: Whether to compile the decoder.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> Moments:
        """Return the posterior of images ``(B, channels, H, W)`` in [-1, 1]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return images ``(B, channels, H, W)``, nominally in [-1, 1], for raw latents ``(B, C, h, w)``."""
