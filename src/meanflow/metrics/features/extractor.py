"""The interface of all feature extractors, which map 8-bit images to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor


class ImageFeatures(NamedTuple):
    """Features of a batch of images, float32, on the device of the images.

    Attributes:
        pooled: One vector per image ``(B, D)``.
        spatial: Features of a grid of places in the image, flattened ``(B, S)``; ``None`` if the extractor has none.
        logits: Class logits ``(B, K)``; ``None`` if the extractor has none.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None


class FeatureExtractor(ABC):
    """Maps images to features.

    An extractor is no ``nn.Module``, so that no checkpoint of a training run contains its weights. The first call loads
    the weights; the constructor reads no file. The weights are frozen and float32, also under autocast. They move to
    the device of the images.

    Attributes:
        name: Name of the extractor in metrics and reference files.
    """

    name: ClassVar[str]

    @abstractmethod
    def prepare(self) -> None:
        """Load the weights now instead of in the first call.

        Raises:
            FileNotFoundError: If the weights are missing and cannot be downloaded. The message names the file, its
                origin and the place to put it.
            ValueError: If the file is damaged or holds other weights.
        """

    @abstractmethod
    def weights_sha256(self) -> str | None:
        """Return the sha256 of the weights file, in hexadecimal digits; ``None`` if there are no weights."""

    @abstractmethod
    def __call__(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images.

        Args:
            images: uint8 ``(B, 1 or 3, H, W)``. If the network needs RGB, the channel of a gray image is repeated.

        Raises:
            ValueError: If the images have another shape or type.
        """
