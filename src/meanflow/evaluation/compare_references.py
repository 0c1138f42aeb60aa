"""Comparison of two files of reference statistics."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from meanflow.metrics import frechet_distance
from meanflow.metrics.reference_file import read_reference


def compare_references(first: str | Path, second: str | Path) -> str:
    """Compare the moments that two files of reference statistics have in common.

    Returns:
        A line for each feature extractor: the Fréchet distance, and the largest differences of means and of
        covariances, each relative to the largest entry in the first file.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is damaged, the files have no extractor in common, or their features have different
            dimensions.
    """
    a, b = read_reference(first), read_reference(second)
    common = [name for name in a.pooled if name in b.pooled]
    if not common:
        raise ValueError(f"{first} has features {sorted(a.pooled)} and {second} has {sorted(b.pooled)}: none in common")
    lines = []
    for name in common:
        distance = frechet_distance(a.pooled[name], b.pooled[name])
        mu, sigma = (_difference(x, y) for x, y in zip(a.pooled[name][:2], b.pooled[name][:2], strict=True))
        lines.append(
            f"{name}: Fréchet distance {distance:.6g}, largest difference of mu {mu:.1e}, of sigma {sigma:.1e}"
        )
        hashes = {reference.weights_sha256.get(name) for reference in (a, b)}
        if len(hashes - {None}) > 1:
            lines.append(f"{name}: extracted with different weights, so that the distance means nothing")
    return "\n".join(lines)


def _difference(x: Tensor, y: Tensor) -> float:
    return ((x - y).abs().max() / x.abs().max()).item()
