"""Activations with their derivatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from meanflow.dual import Dual, make_dual


class SiLU(nn.Module):
    """``x sigmoid(x)``, elementwise."""

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Return the activations, in the shape of ``x``."""
        if isinstance(x, Dual):
            return make_dual(functional.silu(x.primal), lambda: _silu_derivative(x.primal) * x.tangent)
        return functional.silu(x)


class GELU(nn.Module):
    """GELU in its tanh approximation, elementwise, as in DiT and SiT."""

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Return the activations, in the shape of ``x``."""
        if isinstance(x, Dual):
            value = functional.gelu(x.primal, approximate="tanh")
            return make_dual(value, lambda: _gelu_derivative(x.primal) * x.tangent)
        return functional.gelu(x, approximate="tanh")


def _silu_derivative(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu_derivative(x: Tensor) -> Tensor:
    """Return the derivative of ``0.5 x (1 + tanh(c (x + a x^3)))`` with ``c = sqrt(2 / pi)``, ``a = 0.044715``."""
    c, a = math.sqrt(2 / math.pi), 0.044715
    tanh = torch.tanh(c * (x + a * x**3))
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * c * (1 + 3 * a * x**2)
