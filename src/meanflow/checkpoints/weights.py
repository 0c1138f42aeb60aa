"""Names, shapes and precision of the tensors in a state dict."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor


def is_state_dict(content: object) -> bool:
    """Return whether the content of a file is a non-empty mapping of names to tensors."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def to_float32(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the weights in float32, the precision of the networks. Warn if the file has another precision.

    Raises:
        ValueError: If a tensor does not hold floating-point numbers.
    """
    others = sorted(key for key, value in weights.items() if not value.is_floating_point())
    if others:
        raise ValueError(f"{source} is of another architecture: {others[0]} holds {weights[others[0]].dtype}")
    stored = sorted({str(value.dtype).removeprefix("torch.") for value in weights.values()} - {"float32"})
    if stored:
        warnings.warn(f"{source} stores {' and '.join(stored)} weights; they are read as float32", stacklevel=2)
    return {key: value.to(torch.float32) for key, value in weights.items()}


def shape_of(weights: Mapping[str, Tensor], key: str, num_axes: int, source: str) -> tuple[int, ...]:
    """Return the shape of a tensor.

    Raises:
        ValueError: If the tensor is missing, has another number of axes, or is empty.
    """
    if key not in weights:
        raise ValueError(f"{source} is of another architecture or incomplete: missing key {key!r}")
    shape = tuple(weights[key].shape)
    if len(shape) != num_axes or 0 in shape:
        raise ValueError(f"{source} is of another architecture: {key} has shape {shape}, not {num_axes} axes")
    return shape


def num_entries(weights: Mapping[str, Tensor], name: str) -> int:
    """Return the length of the module list ``name``: its highest index plus one."""
    pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.")
    indices = [int(found.group(1)) for found in map(pattern.match, weights) if found]
    return max(indices) + 1 if indices else 0
