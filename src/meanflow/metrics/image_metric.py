"""What every metric of generated images offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.reference import Reference


class ImageMetric(ABC):
    """One or a few numbers about generated images.

    Attributes:
        extractor: Name of the feature extractor whose features it takes.
        higher_is_better: Names of the values that ``compute`` returns, and whether a higher one is better; ``None`` if
            neither is, as for a standard deviation.
        needs_features: Whether the reference must hold features, and not their moments only.
    """

    extractor: str
    higher_is_better: Mapping[str, bool | None]
    needs_features: bool = False

    @abstractmethod
    def set_reference(self, reference: Reference) -> None:
        """Compare with this from now on; metrics that need no reference ignore it.

        Raises:
            ValueError: If the reference lacks what the metric needs; says what, and how to have it.
        """

    @abstractmethod
    def update(self, features: ImageFeatures, indices: Tensor) -> None:
        """Add generated images.

        Args:
            features: Their features.
            indices: Number of each image in the whole sample, int64 ``(B,)``: the result depends on neither the number
                of ranks nor the batch size.

        Raises:
            ValueError: If a feature is not finite, or of another dimension than the reference has.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the values by name, over the images of all ranks; all ranks must call it.

        Raises:
            ValueError: If there is no reference or there are too few images.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget the generated images; keep the reference."""
