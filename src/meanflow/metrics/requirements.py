"""Requirements of metrics on features and on references."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from meanflow.metrics.features.extractor import FeatureExtractor
from meanflow.metrics.reference import Reference
from meanflow.metrics.statistics import Gaussian

PARTS = {"pooled": "moments of pooled features", "spatial": "moments of spatial features", "features": "kept features"}


@overload
def require_part(reference: Reference, part: Literal["pooled", "spatial"], extractor: str) -> Gaussian: ...


@overload
def require_part(reference: Reference, part: Literal["features"], extractor: str) -> Tensor: ...


def require_part(
    reference: Reference, part: Literal["pooled", "spatial", "features"], extractor: str
) -> Gaussian | Tensor:
    """Return the moments or the features that a reference holds for an extractor.

    Raises:
        ValueError: If the reference lacks the extractor. The message names the extractors that it has and the command
            that makes a file.
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
    """Check that the features of a reference come from the weights of the extractor.

    Raises:
        ValueError: If both sha256 are known and differ.
    """
    theirs = reference.weights_sha256.get(extractor.name)
    ours = extractor.weights_sha256() if theirs is not None else None
    if theirs is not None and ours is not None and theirs != ours:
        raise ValueError(
            f"{reference.name} was made with other weights of {extractor.name!r}, sha256 {theirs}, but the weights "
            f"in use have sha256 {ours}: the features cannot be compared"
        )


def require_dimension(expected: int, found: int, name: str, extractor: str) -> None:
    """Check that features have the dimension of the reference.

    Args:
        expected: Number of dimensions of the reference.
        found: Number of dimensions of the images' features.
        name: Name of the reference in the message.
        extractor: Name of the feature extractor.

    Raises:
        ValueError: If the dimensions differ.
    """
    if expected != found:
        raise ValueError(
            f"{name} has {extractor!r} features of {expected} dimensions, those of the images have {found}: "
            "it was made with another extractor or for images of another size"
        )
