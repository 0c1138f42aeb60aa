"""Feature spaces in which images are compared."""

from __future__ import annotations

from meanflow.metrics.features.dinov2 import DINOv2Features
from meanflow.metrics.features.efficientnet_lite0 import EfficientNetLite0Features
from meanflow.metrics.features.extractor import FeatureExtractor, ImageFeatures
from meanflow.metrics.features.inception import InceptionFeatures
from meanflow.metrics.features.pixels import PixelFeatures

FEATURES: dict[str, type[FeatureExtractor]] = {
    extractor.name: extractor
    for extractor in (PixelFeatures, EfficientNetLite0Features, InceptionFeatures, DINOv2Features)
}

__all__ = [
    "FEATURES",
    "DINOv2Features",
    "EfficientNetLite0Features",
    "FeatureExtractor",
    "ImageFeatures",
    "InceptionFeatures",
    "PixelFeatures",
    "build",
]


def build(name: str) -> FeatureExtractor:
    """Build a feature extractor with its default weights.

    Raises:
        ValueError: If no extractor has this name.
    """
    if name not in FEATURES:
        raise ValueError(f"features must be one of {sorted(FEATURES)}, got {name!r}")
    return FEATURES[name]()
