"""Feature spaces in which images are compared."""

from __future__ import annotations

from torch import nn

from meanflow.metrics.features.efficientnet_lite0 import EfficientNetLite0Features
from meanflow.metrics.features.pixels import PixelFeatures

FEATURES: dict[str, type[nn.Module]] = {
    PixelFeatures.name: PixelFeatures,
    EfficientNetLite0Features.name: EfficientNetLite0Features,
}

__all__ = ["FEATURES", "EfficientNetLite0Features", "PixelFeatures", "build"]


def build(name: str) -> nn.Module:
    """Build a feature extractor: uint8 images ``(B, C, H, W)`` to features ``(B, D)``, with an attribute ``name``.

    Raises:
        ValueError: If there is none of that name.
        ImportError: If its weights are not installed.
    """
    if name not in FEATURES:
        raise ValueError(f"features must be one of {sorted(FEATURES)}, got {name!r}")
    return FEATURES[name]()
