"""What metrics require of features and of what these are compared with."""

from __future__ import annotations

from typing import Any, Literal

from meanflow.metrics.features.extractor import FeatureExtractor
from meanflow.metrics.reference import Reference

PARTS = {"pooled": "moments of pooled features", "spatial": "moments of spatial features", "features": "kept features"}


def require_part(reference: Reference, part: Literal["pooled", "spatial", "features"], extractor: str) -> Any:
    """Return what a reference holds for an extractor.

    Raises:
        ValueError: If it holds nothing; says what it has, and how to have it.
    """
    held = getattr(reference, part)
    if extractor not in held:
        others = f"those of {sorted(held)} only" if held else "none"
        raise ValueError(
            f"{reference.name} lacks {PARTS[part]} of {extractor!r}, it has {others}; "
            f"'python prepare.py task=stats features=[{extractor}]' writes a file that has them"
        )
    return held[extractor]


def require_same_weights(reference: Reference, extractor: FeatureExtractor) -> None:
    """Refuse a reference whose features come from other weights; where they are not known, nothing is refused.

    Raises:
        ValueError: If both sha256 are known and differ.
    """
    theirs = reference.weights_sha256.get(extractor.name)
    ours = extractor.weights_sha256() if theirs is not None else None
    if theirs is not None and ours is not None and theirs != ours:
        raise ValueError(
            f"{reference.name} was made with other weights of {extractor.name!r}, sha256 {theirs}, than those in use, "
            f"sha256 {ours}: their features cannot be compared"
        )


def require_dimension(expected: int, found: int, name: str, extractor: str) -> None:
    """Refuse features of another dimension than the reference has.

    Args:
        expected: Number of dimensions of the reference.
        found: Number of dimensions of the images' features.
        name: What to call the reference.
        extractor: Name of the feature extractor.

    Raises:
        ValueError: If they differ.
    """
    if expected != found:
        raise ValueError(
            f"{name} has {extractor!r} features of {expected} dimensions, those of the images have {found}: "
            "it was made with another extractor or for images of another size"
        )
