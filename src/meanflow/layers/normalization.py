"""Normalization over the last axis, in float32 or better."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meanflow.dual import Dual, make_dual


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.Module):
    """Layer normalization without learned scale and shift. The modulation supplies scale and shift."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Normalize ``(..., dim)``; the result is float32 or better."""
        if isinstance(x, Dual):
            return make_dual(self._value(x.primal), lambda: self._tangent(x.primal, x.tangent))
        return self._value(x)

    def _value(self, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(_widen(x), (self.dim,), eps=self.eps)

    def _tangent(self, x: Tensor, dx: Tensor) -> Tensor:
        """Return ``dy = (dx - mean(dx) - y mean(y dx)) / s``, ``s = sqrt(var(x) + eps)``, ``y = (x - mean(x)) / s``."""
        x, dx = _widen(x), _widen(dx)
        variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
        inverse = torch.rsqrt(variance + self.eps)
        y = (x - mean) * inverse
        return (dx - dx.mean(-1, keepdim=True) - y * (y * dx).mean(-1, keepdim=True)) * inverse


class RMSNorm(nn.Module):
    """Root-mean-square normalization with a learned ``scale`` (name of the parameter in the official DMF code)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Normalize ``(..., dim)``; the result has the data type of ``x``."""
        if isinstance(x, Dual):
            return make_dual(self._value(x.primal), lambda: self._tangent(x.primal, x.tangent))
        return self._value(x)

    def _value(self, x: Tensor) -> Tensor:
        wide = _widen(x)
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * inverse * self.scale).to(x.dtype)

    def _tangent(self, x: Tensor, dx: Tensor) -> Tensor:
        """Return ``dy = (dx - y mean(y dx)) / s * scale`` with ``s = sqrt(mean(x^2) + eps)`` and ``y = x / s``."""
        wide, d_wide = _widen(x), _widen(dx)
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        y = wide * inverse
        return ((d_wide - y * (y * d_wide).mean(-1, keepdim=True)) * inverse * self.scale).to(x.dtype)
