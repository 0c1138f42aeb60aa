"""What generated images are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from meanflow.metrics.features.extractor import FeatureExtractor
from meanflow.metrics.statistics import FeatureStatistics, Gaussian


@dataclass(frozen=True)
class Reference:
    """Statistics of real images.

    Args:
        pooled: Moments of pooled features by the name of the extractor.
        spatial: Moments of spatial features, likewise.
        features: Pooled features ``(N, D)``, float32, of some of the images, by the name of the extractor; metrics that
            look for neighbours need them.
        weights_sha256: Of the weights of each extractor, where known.
        origin: Where it comes from, for the record: file, sha256, source, number of images, ...
    """

    pooled: Mapping[str, Gaussian] = field(default_factory=dict)
    spatial: Mapping[str, Gaussian] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What an error message calls it."""
        return str(self.origin.get("file", "the reference"))


class ReferenceBuilder:
    """Streams real images into a ``Reference``.

    Args:
        extractors: Feature extractors.
    """

    def __init__(self, extractors: Iterable[FeatureExtractor]) -> None:
        self.extractors = {extractor.name: extractor for extractor in extractors}
        self.pooled = {name: FeatureStatistics() for name in self.extractors}
        self.spatial = {name: FeatureStatistics() for name in self.extractors}
        self.kept: dict[str, list[Tensor]] = {name: [] for name in self.extractors}

    def update(self, images: Tensor, keep: Sequence[bool] | None = None) -> None:
        """Add images, uint8 ``(B, C, H, W)``, and keep the features of some of them.

        Args:
            images: The images.
            keep: Whether to keep the features of each image; of none by default.

        Raises:
            ValueError: If the images or their features are not what they should be.
        """
        for name, extractor in self.extractors.items():
            features = extractor(images)
            self.pooled[name].to(images.device).update(features.pooled)
            if features.spatial is not None:
                self.spatial[name].to(images.device).update(features.spatial)
            if keep is not None and any(keep):
                self.kept[name].append(features.pooled[torch.tensor(keep)].cpu())

    def compute(self, origin: Mapping[str, Any] | None = None) -> Reference:
        """Return the statistics of the images of all ranks; all ranks must call it.

        Raises:
            ValueError: If there are fewer than two images.
        """
        hashes = {name: extractor.weights_sha256() for name, extractor in self.extractors.items()}
        return Reference(
            pooled={name: statistics.compute() for name, statistics in self.pooled.items()},
            spatial={name: statistics.compute() for name, statistics in self.spatial.items() if statistics.num_samples},
            features={name: gather_rows(torch.cat(kept)) for name, kept in self.kept.items() if kept},
            weights_sha256={name: value for name, value in hashes.items() if value is not None},
            origin=origin or {},
        )


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows ``(N, D)`` of all ranks, rank after rank; each may have another number of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    return torch.cat(gather_all_tensors(rows))
