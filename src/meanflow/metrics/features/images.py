"""Checks of the images that extractors take and of the features that metrics take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_images(images: Tensor, channels: Sequence[int] | None = None) -> None:
    """Raise unless ``images`` is a uint8 batch ``(B, C, H, W)``.

    Args:
        images: Tensor to check.
        channels: Allowed numbers of channels; ``None`` allows any number.

    Raises:
        ValueError: If data type, number of axes or number of channels is wrong.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 in [0, 255], got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")
    if channels is not None and images.shape[1] not in channels:
        raise ValueError(f"images must have a number of channels in {list(channels)}, got {images.shape[1]}")


def require_finite(features: Tensor, indices: Tensor) -> None:
    """Raise unless all features are finite.

    Args:
        features: One row per image ``(B, D)``.
        indices: Number of each image ``(B,)``.

    Raises:
        ValueError: If the shapes do not agree, or a feature is not finite. The message names the images.
    """
    if features.ndim != 2 or indices.shape != features.shape[:1]:
        raise ValueError(
            f"features must have shape (B, D) and indices (B,), got {tuple(features.shape)} and {tuple(indices.shape)}"
        )
    finite = torch.isfinite(features).all(dim=1)
    if not finite.all():
        bad = indices[~finite.to(indices.device)].tolist()
        raise ValueError(f"features must be finite, those of image(s) {bad[:8]} are not")
