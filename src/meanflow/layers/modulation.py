"""Adaptive layer-norm modulation (DiT)."""

from __future__ import annotations

from torch import Tensor

from meanflow.dual import Dual, add, multiply


def modulate(x: Tensor | Dual, shift: Tensor | Dual, scale: Tensor | Dual) -> Tensor | Dual:
    """Return ``x (1 + scale) + shift`` for tokens ``(B, N, D)`` and modulations ``(B, D)``."""
    return add(multiply(x, add(scale.unsqueeze(1), 1)), shift.unsqueeze(1))


def gated_residual(x: Tensor | Dual, gate: Tensor | Dual, branch: Tensor | Dual) -> Tensor | Dual:
    """Return ``x + gate branch`` for tokens ``(B, N, D)`` and gates ``(B, D)``."""
    return add(x, multiply(gate.unsqueeze(1), branch))
