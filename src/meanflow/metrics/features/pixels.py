"""Raw pixels as features, for images of a few pixels."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from meanflow.metrics.features.extractor import FeatureExtractor, ImageFeatures
from meanflow.metrics.features.images import check_images


class PixelFeatures(FeatureExtractor):
    """Pixel values in [-1, 1], ``C H W`` of them."""

    name: ClassVar[str] = "pixels"

    def prepare(self) -> None:
        """Do nothing: there are no weights."""

    def weights_sha256(self) -> None:
        """Return ``None``: there are no weights."""

    def __call__(self, images: Tensor) -> ImageFeatures:
        """Return the pixels of images, uint8 ``(B, C, H, W)``.

        Raises:
            ValueError: If the images are not of that shape and type.
        """
        check_images(images)
        return ImageFeatures(pooled=images.flatten(1).float() / 127.5 - 1)
