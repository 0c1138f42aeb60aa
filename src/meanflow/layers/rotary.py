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
    return linear_map(lambda a: _turn(a, angles), x)


def _turn(a: Tensor, angles: Tensor) -> Tensor:
    wide = torch.promote_types(a.dtype, torch.float32)
    cos, sin = angles.cos().to(wide), angles.sin().to(wide)
    if a.dtype == wide and a.device.type == "cpu" and not torch.compiler.is_compiling():
        # One product of complex numbers takes a third of the time of four real ones and two sums. The table has the
        # layout of the pairs in memory, all heads of a token side by side: broadcasting over heads would be slow.
        table = torch.complex(cos, sin)[:, None].expand(-1, a.shape[1], -1).contiguous().transpose(0, 1)
        pairs = torch.view_as_complex(a.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2)
    even, odd = a[..., 0::2], a[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(a.dtype)
