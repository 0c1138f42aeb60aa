"""What every feature extractor offers: 8-bit images in, features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor


class ImageFeatures(NamedTuple):
    """Features of a batch of images, float32, on the device of the images.

    Attributes:
        pooled: One vector per image ``(B, D)``.
        spatial: Features that still know where in the image they are, flattened ``(B, S)``; ``None`` if not offered.
        logits: Class logits ``(B, K)``; ``None`` if not offered.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None


class FeatureExtractor(ABC):
    """Maps images to features. Plain object: its weights belong to no checkpoint of ours.

    Weights are loaded at the first use, so that constructing an extractor needs neither network nor disk. They are
    float32 whatever the autocast mode, frozen, and follow the device of the images.

    Attributes:
        name: Name by which metrics and reference files mean it.
    """

    name: ClassVar[str]

    @abstractmethod
    def prepare(self) -> None:
        """Load the weights; they would be loaded at first use otherwise.

        Raises:
            FileNotFoundError: If they cannot be had; says which file, where it comes from and where to put it.
            ValueError: If the file is not what it should be.
        """

    @abstractmethod
    def weights_sha256(self) -> str | None:
        """Return the sha256 of the weights file, in hexadecimal digits; ``None`` if there are no weights."""

    @abstractmethod
    def __call__(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images, uint8 ``(B, 1 or 3, H, W)``; grey images are repeated where RGB is needed.

        Raises:
            ValueError: If the images are not of that shape and type.
        """
