"""Gated perceptron (Shazeer, 2020, arXiv:2002.05202)."""

from __future__ import annotations

from torch import Tensor, nn

from meanflow.dual import Dual, multiply
from meanflow.layers.activations import SiLU
from meanflow.layers.linear import Linear


class SwiGLU(nn.Module):
    """``w2(silu(w1 x) * w3 x)`` without biases."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.w1 = Linear(hidden_size, inner_size, bias=False)
        self.w3 = Linear(hidden_size, inner_size, bias=False)
        self.w2 = Linear(inner_size, hidden_size, bias=False)
        self.act = SiLU()

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Map tokens ``(B, N, hidden_size)``."""
        return self.w2(multiply(self.act(self.w1(x)), self.w3(x)))
