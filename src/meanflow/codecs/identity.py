"""The codec of pixel-space models."""

from __future__ import annotations

from torch import Tensor

from meanflow.codecs.codec import Codec, Moments


class IdentityCodec(Codec):
    """Latents are the images themselves.

    Args:
        channels: Channels of the images: 1 for grey, 3 for RGB.
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
        """Images in [-1, 1] are left as they are."""
        return 1.0

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return the shape of the images."""
        return self.channels, resolution, resolution

    def fingerprint(self) -> str:
        """There are no weights."""
        return ""

    def prepare(self) -> None:
        """There is nothing to fetch."""

    def encode(self, images: Tensor) -> Moments:
        """Return the images ``(B, channels, H, W)`` as they are; there is no standard deviation."""
        return Moments(self._checked(images, "images"), None)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents ``(B, channels, H, W)`` as they are."""
        return self._checked(latents, "latents")

    def _checked(self, x: Tensor, what: str) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"{what} must have the shape (B, {self.channels}, H, W), got {tuple(x.shape)}")
        return x
