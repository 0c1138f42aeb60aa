"""All metrics of the catalogue, on random features."""

import warnings
from collections.abc import Sequence

import torch

from meanflow.metrics import METRICS, FeatureStatistics, build_metrics
from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.reference import Reference

NUM_IMAGES = 24


def features(seed: int) -> ImageFeatures:
    generator = torch.Generator().manual_seed(seed)
    return ImageFeatures(*(torch.randn(NUM_IMAGES, dim, generator=generator) for dim in (6, 4, 5)))


def reference() -> Reference:
    """Return what every metric needs; on a rank, to be called before the others can be reached."""
    pooled, spatial = FeatureStatistics(), FeatureStatistics()
    pooled.update(features(0).pooled)
    spatial.update(features(0).spatial)
    extractors = {metric.extractor for metric in build_metrics(list(METRICS))}
    return Reference(
        pooled=dict.fromkeys(extractors, pooled.compute()),
        spatial={"inception": spatial.compute()},
        features=dict.fromkeys(extractors, features(0).pooled),
    )


def values(batches: Sequence[Sequence[int]], comparison: Reference) -> dict[str, float]:
    """Return the values of all metrics, of images that come in these batches."""
    found: dict[str, float] = {}
    for metric in build_metrics(list(METRICS)):
        metric.set_reference(comparison)
        for batch in batches:
            indices = torch.tensor(batch, dtype=torch.int64)
            metric.update(ImageFeatures(*(rows[indices] for rows in features(1))), indices)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* from subsets of 24 images in place of 1000")
            computed = metric.compute()
        assert computed.keys() == metric.higher_is_better.keys()
        assert not computed.keys() & found.keys()
        found |= computed
    return found
