"""Adaptive layer-norm modulation (DiT)."""

from __future__ import annotations

from torch import Tensor

from meanflow.dual import Dual


def modulate(x: Tensor | Dual, shift: Tensor | Dual, scale: Tensor | Dual) -> Tensor | Dual:
    """Return ``x (1 + scale) + shift`` for tokens ``(B, N, D)`` and modulations ``(B, D)``."""
    return x * (scale.unsqueeze(1) + 1) + shift.unsqueeze(1)
