"""Statistics of real images. Metrics compare generated images with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from meanflow.metrics.features.extractor import FeatureExtractor, ImageFeatures
from meanflow.metrics.kept_features import KeptFeatures
from meanflow.metrics.statistics import FeatureStatistics, Gaussian


@dataclass(frozen=True)
class Reference:
    """Statistics of real images.

    Args:
        pooled: Moments of pooled features by the name of the extractor.
        spatial: Moments of spatial features by the name of the extractor.
        features: Pooled features ``(N, D)``, float32, of some of the images, by the name of the extractor. Metrics that
            look for neighbors need them.
        weights_sha256: The sha256 of the weights of each extractor, where known.
        origin: Origin of the statistics, for the record: file, sha256, source, number of images, ...
    """

    pooled: Mapping[str, Gaussian] = field(default_factory=dict)
    spatial: Mapping[str, Gaussian] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the reference in error messages."""
        return str(self.origin.get("file", "the reference"))


class ReferenceBuilder:
    """Streams real images into a ``Reference``.

    Args:
        extractors: Feature extractors.
        kept: Numbers of the images whose pooled features the reference holds; no images by default.
    """

    def __init__(self, extractors: Iterable[FeatureExtractor], kept: Collection[int] = ()) -> None:
        self.extractors = {extractor.name: extractor for extractor in extractors}
        self.kept = kept
        self.pooled = {name: FeatureStatistics() for name in self.extractors}
        self.spatial = {name: FeatureStatistics() for name in self.extractors}
        self.features = {name: KeptFeatures() for name in self.extractors}

    def update(self, images: Tensor, numbers: Sequence[int]) -> None:
        """Add images.

        Args:
            images: uint8 ``(B, C, H, W)``.
            numbers: Number of each image among all images. The kept features are in this order.

        Raises:
            ValueError: If the images have the wrong shape or type, or a feature is not finite.
        """
        self.add({name: extractor(images) for name, extractor in self.extractors.items()}, numbers)

    def add(self, features: Mapping[str, ImageFeatures], numbers: Sequence[int]) -> None:
        """Add images by their features."""
        rows = [row for row, number in enumerate(numbers) if number in self.kept]
        kept = torch.tensor([numbers[row] for row in rows], dtype=torch.int64)
        for name, (pooled, spatial, _) in features.items():
            self.pooled[name].to(pooled.device).update(pooled)
            if spatial is not None:
                self.spatial[name].to(spatial.device).update(spatial)
            self.features[name].update(pooled[rows], kept)

    @property
    def num_images(self) -> int:
        """Number of images so far, on this rank."""
        return next((statistics.num_samples for statistics in self.pooled.values()), 0)

    def state(self) -> dict[str, Tensor]:
        """Return the moments and features of this rank so far, on the CPU, for ``merge``."""
        state = {f"pooled.{name}": statistics.moments.cpu() for name, statistics in self.pooled.items()}
        state |= {f"spatial.{name}": statistics.moments.cpu() for name, statistics in self.spatial.items()}
        for name, kept in self.features.items():
            if kept.num_dimensions is not None:
                state |= {f"features.{name}": torch.cat(kept.features), f"numbers.{name}": torch.cat(kept.indices)}
        return state

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add the images of another builder with the same extractors.

        A builder without images becomes equal to the other builder, bit for bit.

        Args:
            state: ``state()`` of the other builder.

        Raises:
            ValueError: If the features are of other dimensions.
        """
        for name in self.extractors:
            for kind, statistics in (("pooled", self.pooled[name]), ("spatial", self.spatial[name])):
                if (moments := state[f"{kind}.{name}"]).numel():
                    statistics.merge(moments)
            if (features := state.get(f"features.{name}")) is not None:
                self.features[name].update(features, state[f"numbers.{name}"])

    def compute(self, origin: Mapping[str, object] | None = None) -> Reference:
        """Return the statistics of the images of all ranks. All ranks must call this method.

        Raises:
            ValueError: If there are fewer than two images.
        """
        hashes = {name: extractor.weights_sha256() for name, extractor in self.extractors.items()}
        return Reference(
            pooled={name: statistics.compute() for name, statistics in self.pooled.items()},
            spatial={name: statistics.compute() for name, statistics in self.spatial.items() if statistics.num_samples},
            features={name: kept.gather() for name, kept in self.features.items()} if self.kept else {},
            weights_sha256={name: value for name, value in hashes.items() if value is not None},
            origin=origin or {},
        )
