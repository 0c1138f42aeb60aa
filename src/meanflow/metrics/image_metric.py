"""The interface of all metrics of generated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.reference import Reference


class ImageMetric(ABC):
    """One or a few numbers about generated images.

    Attributes:
        extractor: Name of the feature extractor whose features the metric takes.
        higher_is_better: For each value that ``compute`` returns, by name: whether a higher value is better. ``None``
            marks a value without a better direction, such as a standard deviation.
        needs_features: Whether the reference must hold features, and not only the moments of features.
    """

    extractor: str
    higher_is_better: Mapping[str, bool | None]
    needs_features: bool = False

    @abstractmethod
    def set_reference(self, reference: Reference) -> None:
        """Compare with this reference from now on. Metrics that need no reference ignore it.

        Raises:
            ValueError: If the reference lacks statistics that the metric needs. The message names the statistics and
                the command that makes them.
        """

    @abstractmethod
    def update(self, features: ImageFeatures, indices: Tensor) -> None:
        """Add generated images.

        Args:
            features: Features of the images.
            indices: Number of each image in the whole sample, int64 ``(B,)``. Because of these numbers, the values
                depend neither on the number of ranks nor on the batch size.

        Raises:
            ValueError: If a feature is not finite, or features and reference have different dimensions.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the values by name, over the images of all ranks. All ranks must call this method.

        Raises:
            ValueError: If there is no reference, or there are too few images.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget the generated images, and keep the reference."""
