"""Embeddings of times, labels and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from meanflow.dual import Dual, make_dual
from meanflow.layers.activations import SiLU
from meanflow.layers.linear import Linear


def sinusoidal_embedding(t: Tensor | Dual, dim: int, max_period: float = 10_000.0) -> Tensor | Dual:
    """Embed times as ``[cos(t w), sin(t w)]`` with ``w_i = max_period ** (-i / half)``, ``half = dim // 2``.

    Args:
        t: Times ``(B,)``. They are not multiplied by 1000, unlike in DDPM.
        dim: Width of the embedding. The last entry of an odd width is 0.
        max_period: Period of the slowest sinusoid over 2 pi.

    Returns:
        Embeddings ``(B, dim)`` in the data type of ``t``.
    """
    half = dim // 2

    def angles(t: Tensor) -> Tensor:
        steps = torch.arange(half, dtype=t.dtype, device=t.device)
        return t[:, None] * torch.exp(-math.log(max_period) / half * steps)[None]

    def embed(first: Tensor, second: Tensor) -> Tensor:
        return torch.nn.functional.pad(torch.cat([first, second], dim=-1), (0, dim % 2))

    if isinstance(t, Dual):
        a = angles(t.primal)
        value = embed(a.cos(), a.sin())
        return make_dual(value, lambda: embed(-a.sin() * angles(t.tangent), a.cos() * angles(t.tangent)))
    a = angles(t)
    return embed(a.cos(), a.sin())


def position_table(dim: int, grid_size: int) -> Tensor:
    """Return the position embeddings of a square grid, row by row, float64 ``(grid_size ** 2, dim)``.

    The first half of the width encodes the column, the second half encodes the row, each as ``[sin, cos]``.

    Raises:
        ValueError: If ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"hidden_size must be a multiple of 4 for the position table, got {dim}")
    frequency = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    index = torch.arange(grid_size, dtype=torch.float64)
    angle = index[:, None] * frequency[None]
    axis = torch.cat([angle.sin(), angle.cos()], dim=-1)
    columns, rows = axis.repeat(grid_size, 1), axis.repeat_interleave(grid_size, dim=0)
    return torch.cat([columns, rows], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoidal embedding of a time, then a two-layer perceptron."""

    def __init__(self, hidden_size: int, frequency_size: int = 256) -> None:
        super().__init__()
        self.frequency_size = frequency_size
        self.mlp = nn.Sequential(Linear(frequency_size, hidden_size), SiLU(), Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor | Dual) -> Tensor | Dual:
        """Embed times ``(B,)`` as ``(B, hidden_size)``. Under mixed precision the sinusoids keep the type of ``t``."""
        return self.mlp(sinusoidal_embedding(t, self.frequency_size))


class LabelEmbedder(nn.Module):
    """Table of class embeddings. The last row belongs to the null label."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        """Embed labels ``(B,)`` as ``(B, hidden_size)``."""
        return self.embedding_table(y)
