"""Raw pixels as features, for images of a few pixels."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from meanflow.metrics.features.extractor import FeatureExtractor, ImageFeatures
from meanflow.metrics.features.images import check_images


class PixelFeatures(FeatureExtractor):
    """The ``C H W`` pixel values of an image, in [-1, 1]."""

    name: ClassVar[str] = "pixels"

    def prepare(self) -> None:
        """Do nothing, because there are no weights."""

    def weights_sha256(self) -> None:
        """Return ``None``, because there are no weights."""

    def __call__(self, images: Tensor) -> ImageFeatures:
        """Return the pixels of images, uint8 ``(B, C, H, W)``.

        Raises:
            ValueError: If the images have another shape or type.
        """
        check_images(images)
        return ImageFeatures(pooled=images.flatten(1).float() / 127.5 - 1)
