"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow.dual import Dual, linear_map


def rotary_table(num_tokens: int, head_dim: int, theta: float = 10_000.0) -> Tensor:
    """Return angles, float64 ``(num_tokens, head_dim / 2)``: position times ``theta ** (-2 i / head_dim)``.

    Raises:
        ValueError: If ``head_dim`` is odd.
    """
    if head_dim % 2:
        raise ValueError(f"the head dimension must be even for rotary embeddings, got {head_dim}")
    frequency = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return torch.arange(num_tokens, dtype=torch.float64)[:, None] * frequency


def rotate(x: Tensor | Dual, angles: Tensor) -> Tensor | Dual:
    """Rotate adjacent pairs of the last axis of ``(B, heads, N, head_dim)`` by angles ``(N, head_dim / 2)``."""

    def turn(a: Tensor) -> Tensor:
        wide = torch.promote_types(a.dtype, torch.float32)
        cos, sin = angles.cos().to(wide), angles.sin().to(wide)
        even, odd = a[..., 0::2], a[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(a.dtype)

    return linear_map(turn, x)
