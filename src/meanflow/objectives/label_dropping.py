"""Replacing labels by the null label, so that a network also learns the unconditional velocity."""

from __future__ import annotations

import torch
from torch import Tensor


def check_probability(key: str, value: float) -> float:
    """Return ``value`` if it is a probability.

    Raises:
        ValueError: Otherwise, naming ``key``.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{key} must be from 0 to 1, got {value}")
    return value


def drop_labels(y: Tensor, dropped: Tensor, null_label: int) -> Tensor:
    """Return the labels ``(B,)`` with the null label where ``dropped (B,)`` is true."""
    return torch.where(dropped.to(y.device, non_blocking=True), null_label, y)
