"""Attention backends: ``(q, k, v) -> out`` on tensors or duals, chosen by name.

``q``, ``k``, ``v`` and ``out`` are ``(B, heads, N, head_dim)``; the scale is ``head_dim ** -0.5``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from meanflow.attention.reference import reference_attention
from meanflow.attention.sdpa import sdpa_attention
from meanflow.dual import Dual


class Attention(Protocol):
    """A backend; duals in give a dual out."""

    def __call__(self, q: Tensor | Dual, k: Tensor | Dual, v: Tensor | Dual) -> Tensor | Dual:
        """Return ``softmax(q k^T / sqrt(head_dim)) v`` and, for duals, its tangent."""
        ...


BACKENDS: dict[str, Callable[..., Tensor | Dual]] = {"reference": reference_attention, "sdpa": sdpa_attention}


def get_attention(name: str) -> Attention:
    """Return the backend called ``name``.

    Raises:
        ValueError: If there is none.
    """
    if name not in BACKENDS:
        raise ValueError(f"attention must be one of {sorted(BACKENDS)}, got {name!r}")
    return BACKENDS[name]
