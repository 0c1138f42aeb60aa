"""The codec of models in pixel space."""

from __future__ import annotations

from torch import Tensor

from meanflow.codecs.codec import Codec, Moments


class IdentityCodec(Codec):
    """Latents are the images themselves.

    Args:
        channels: Channels of the images: 1 for gray, 3 for RGB.
    """

    def __init__(self, channels: int) -> None:
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.channels = channels
        self.config = {"name": "identity", "channels": channels}

    @property
    def image_channels(self) -> int:
        """Channels of the images."""
        return self.channels

    @property
    def scaling_factor(self) -> float:
        """Always 1: images in [-1, 1] need no scaling."""
        return 1.0

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return the shape of the images."""
        return self.channels, resolution, resolution

    def fingerprint(self) -> str:
        """Return an empty string: there are no weights."""
        return ""

    def prepare(self) -> None:
        """Do nothing: there are no weights."""

    def encode(self, images: Tensor) -> Moments:
        """Return the images ``(B, channels, H, W)`` as latents, without a standard deviation."""
        return Moments(self._checked(images, "images"), None)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents ``(B, channels, H, W)`` as images."""
        return self._checked(latents, "latents")

    def _checked(self, x: Tensor, name: str) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"{name} must have the shape (B, {self.channels}, H, W), got {tuple(x.shape)}")
        return x
