"""Device and data type in which an objective computes."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Tensors = TypeVar("Tensors")


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x``, widened to float32 if it has half precision.

    Times, states and targets take the data type of the result.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def match_data(tensors: Tensors, x: Tensor) -> Tensors:
    """Bring tensors to the device of the data, floating-point tensors also to the data type of ``at_least_float32(x)``.

    The host does not wait for the device.

    Args:
        tensors: A tensor, or nested tuples of tensors such as the plan of a step.
        x: Data ``(B, C, H, W)``.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)

    def move(tensor: Tensor) -> Tensor:
        moved = tensor.to(x.device, non_blocking=True)
        return moved.to(dtype) if moved.is_floating_point() else moved

    return tree_map_only(Tensor, move, tensors)
