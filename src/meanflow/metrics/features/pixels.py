"""Raw pixels as features, for images of a few pixels."""

from __future__ import annotations

from torch import Tensor, nn

from meanflow.metrics.features.images import check_images


class PixelFeatures(nn.Module):
    """Pixel values in [-1, 1], ``C H W`` of them."""

    name = "pixels"

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 images ``(B, C, H, W)`` into float32 features ``(B, C H W)``.

        Raises:
            ValueError: If the images are not of that shape and type.
        """
        check_images(images)
        return images.flatten(1).float() / 127.5 - 1
