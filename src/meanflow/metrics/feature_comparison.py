"""Metrics that compare two sets of features, and not only the moments of the features."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.image_metric import ImageMetric
from meanflow.metrics.kept_features import KeptFeatures
from meanflow.metrics.reference import Reference
from meanflow.metrics.requirements import require_dimension, require_part


class FeatureComparison(ImageMetric):
    """Compares the pooled features of generated images with the features that a reference keeps.

    Args:
        extractor: Name of the feature extractor.
    """

    needs_features = True

    def __init__(self, extractor: str) -> None:
        self.extractor = extractor
        self.reference: Tensor | None = None
        self.reference_name = ""
        self.kept = KeptFeatures()

    def set_reference(self, reference: Reference) -> None:
        """Compare with the features that this reference keeps.

        Raises:
            ValueError: If the reference keeps no features of the extractor.
        """
        self.reference = require_part(reference, "features", self.extractor)
        self.reference_name = reference.name

    def update(self, features: ImageFeatures, indices: Tensor) -> None:
        """Add pooled features of generated images.

        Args:
            features: Features, of which ``pooled`` ``(B, D)`` is used.
            indices: Number of each image in the whole sample, int64 ``(B,)``.

        Raises:
            ValueError: If a feature is not finite, or features and reference have different dimensions.
        """
        if self.reference is not None:
            self._require_dimension(self.reference, features.pooled)
        self.kept.update(features.pooled, indices)

    def compute(self) -> dict[str, float]:
        """Return the values by name, over the images of all ranks. All ranks must call this method.

        Raises:
            ValueError: If there is no reference, an image was added twice, or there are too few images.
        """
        if self.reference is None:
            raise ValueError(f"{' and '.join(self.higher_is_better)} need a reference: call set_reference")
        generated = self.kept.gather()
        self._require_dimension(self.reference, generated)
        return self.compare(generated.to(self.kept.device), self.reference)

    def reset(self) -> None:
        """Forget the generated images, and keep the reference."""
        self.kept.reset()

    @abstractmethod
    def compare(self, generated: Tensor, reference: Tensor) -> dict[str, float]:
        """Return the values by name.

        Args:
            generated: Features ``(N, D)`` in the order of the images, on the device on which to compute.
            reference: Features of real images ``(M, D)``, on any device.

        Raises:
            ValueError: If there are too few images.
        """

    def _require_dimension(self, reference: Tensor, features: Tensor) -> None:
        require_dimension(reference.shape[-1], features.shape[-1], self.reference_name, self.extractor)
