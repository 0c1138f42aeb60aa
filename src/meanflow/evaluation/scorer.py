"""Values of several metrics for a sample of images. Each feature extractor takes each image once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from meanflow.metrics.catalogue import build_metrics
from meanflow.metrics.features.extractor import FeatureExtractor, ImageFeatures
from meanflow.metrics.reference import Reference, ReferenceBuilder
from meanflow.metrics.requirements import require_same_weights


class ImageBatch(NamedTuple):
    """Some images of a sample.

    Attributes:
        images: uint8 ``(B, C, H, W)``.
        indices: Number of each image in the whole sample.
    """

    images: Tensor
    indices: Sequence[int]


class Scorer:
    """Computes metrics of generated images against a reference.

    Args:
        metrics: Names of the metrics.
        extractors: Feature extractors by name. Extractors that no metric needs are not loaded.

    Raises:
        ValueError: If a metric is unknown, or needs an extractor that is not in ``extractors``.
    """

    def __init__(self, metrics: Sequence[str], extractors: Mapping[str, FeatureExtractor]) -> None:
        self.metrics = build_metrics(metrics)
        needed = sorted({metric.extractor for metric in self.metrics})
        if missing := [name for name in needed if name not in extractors]:
            raise ValueError(
                f"protocol.metrics={list(metrics)} need the features {missing}, given are {list(extractors)}"
            )
        self.extractors = {name: extractors[name] for name in needed}
        self.reference_origin: Mapping[str, object] = {}
        self.directions = {name: up for metric in self.metrics for name, up in metric.higher_is_better.items()}

    @property
    def headline(self) -> str:
        """Name of the value that ranks samplers and checkpoints: the first value of the first metric."""
        return next(iter(self.directions))

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher headline value is better."""
        return bool(self.directions[self.headline])

    @property
    def needs_features(self) -> bool:
        """Whether a metric needs features of real images, not only their moments."""
        return any(metric.needs_features for metric in self.metrics)

    def prepare(self) -> None:
        """Load the weights of the extractors.

        Raises:
            FileNotFoundError: If a file is missing and cannot be downloaded.
        """
        for extractor in self.extractors.values():
            extractor.prepare()

    @torch.no_grad()
    def extract(self, images: Tensor) -> dict[str, ImageFeatures]:
        """Return the features of images, uint8 ``(B, C, H, W)``, by the name of the extractor."""
        return {name: extractor(images) for name, extractor in self.extractors.items()}

    def reference_builder(self) -> ReferenceBuilder:
        """Return a builder that turns the features of real images into a reference for these metrics."""
        return ReferenceBuilder(self.extractors.values(), kept=range(sys.maxsize) if self.needs_features else ())

    def set_reference(self, reference: Reference) -> None:
        """Compare with this reference from now on.

        Raises:
            ValueError: If the reference lacks statistics that a metric needs, or other weights made its features.
        """
        for metric in self.metrics:
            metric.set_reference(reference)
        for extractor in self.extractors.values():
            require_same_weights(reference, extractor)
        self.reference_origin = reference.origin

    def update(self, features: Mapping[str, ImageFeatures], indices: Sequence[int]) -> None:
        """Add generated images by their features and their numbers in the whole sample."""
        numbers = torch.tensor(indices)
        for metric in self.metrics:
            metric.update(features[metric.extractor], numbers)

    def compute(self) -> dict[str, float]:
        """Return all values over the images of all ranks, and forget the images. All ranks must call this method."""
        values: dict[str, float] = {}
        for metric in self.metrics:
            values |= metric.compute()
        self.reset()
        return values

    def reset(self) -> None:
        """Forget the generated images, and keep the reference."""
        for metric in self.metrics:
            metric.reset()

    def score(self, batches: Iterable[ImageBatch]) -> dict[str, float]:
        """Return the values for a sample of images. Every rank has its part of the images.

        Raises:
            ValueError: If the images have another size than the images of the reference, or cannot be scored.
        """
        self.reset()
        for images, indices in batches:
            self._require_size(images)
            self.update(self.extract(images), indices)
        return self.compute()

    def _require_size(self, images: Tensor) -> None:
        """Check the size of images, if the size of the images of the reference is known.

        Raises:
            ValueError: If the sizes differ.
        """
        resolution = self.reference_origin.get("resolution")
        height, width = images.shape[-2:]
        if resolution is not None and (height, width) != (resolution, resolution):
            raise ValueError(
                f"{self.reference_origin.get('file')} describes images of {resolution} x {resolution} pixels, "
                f"but the images to score have {width} x {height}"
            )
