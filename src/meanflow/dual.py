"""Dual numbers: a value that autograd tracks, with a derivative that it does not.

Training a flow map needs ``u`` with its graph and ``du_dt`` without one (every MeanFlow objective stops the gradient
there). ``torch.func.jvp`` builds a graph for both. Here a network is run once on ``Dual`` inputs: primals are tracked
as usual, tangents are computed from them under ``no_grad``, layer by layer, and each layer's tangent is freed as soon
as the next one exists.

``Dual`` is a pytree node, so hooks and transforms see the two tensors in it. This module has the rules of sums,
products and linear maps; the layers in ``meanflow.layers`` add normalisations, activations and attention. Sums and
products are functions and not operators, because ``torch.compile`` cannot trace ``+`` between a tensor and another
class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_skip_tangents = False


class Dual:
    """A primal and its tangent: ``primal + epsilon * tangent`` with ``epsilon ** 2 = 0``.

    Args:
        primal: The value; autograd tracks it.
        tangent: Its derivative, of the same shape; never tracked.
    """

    def __init__(self, primal: Tensor, tangent: Tensor) -> None:
        self.primal = primal
        self.tangent = tangent

    def __repr__(self) -> str:
        return f"Dual(primal={self.primal!r}, tangent={self.tangent!r})"

    @property
    def shape(self) -> torch.Size:
        """Shape of the primal (and of the tangent)."""
        return self.primal.shape

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the primal."""
        return self.primal.dtype

    @property
    def device(self) -> torch.device:
        """Device of the primal."""
        return self.primal.device

    def __getitem__(self, index: Any) -> Dual:
        return linear_map(lambda a: a[index], self)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Dual, ...]:
        """Split into ``chunks`` parts along ``dim``, as ``Tensor.chunk``."""
        primals = self.primal.chunk(chunks, dim)
        tangents = _no_grad(lambda: self.tangent.chunk(chunks, dim), default=(None,) * len(primals))
        return tuple(Dual(p, d) for p, d in zip(primals, tangents, strict=True))

    def unsqueeze(self, dim: int) -> Dual:
        """Insert an axis, as ``Tensor.unsqueeze``."""
        return linear_map(lambda a: a.unsqueeze(dim), self)


def _flatten(dual: Dual) -> tuple[list[Tensor], None]:
    return [dual.primal, dual.tangent], None


def _unflatten(leaves: Any, _context: None) -> Dual:
    return Dual(*leaves)


pytree.register_pytree_node(Dual, _flatten, _unflatten, serialized_type_name="meanflow.dual.Dual")


def _no_grad(function: Callable[[], Any], default: Any) -> Any:
    if _skip_tangents:
        return default
    with torch.no_grad():
        return function()


def make_dual(primal: Tensor, tangent: Callable[[], Tensor]) -> Dual:
    """Pair a computed primal with its tangent, which is evaluated under ``no_grad`` (every rule goes through here)."""
    return Dual(primal, _no_grad(tangent, default=None))


@overload
def linear_map(function: Callable[[Tensor], Tensor], x: Dual) -> Dual: ...
@overload
def linear_map(function: Callable[[Tensor], Tensor], x: Tensor | Dual) -> Tensor | Dual: ...
def linear_map(function: Callable[[Tensor], Tensor], x: Tensor | Dual) -> Tensor | Dual:
    """Apply a function that is linear in its argument (a view, a permutation, a matrix) to a tensor or a dual."""
    if isinstance(x, Dual):
        tangent = x.tangent
        return make_dual(function(x.primal), lambda: function(tangent))
    return function(x)


def add(a: Tensor | Dual, b: Tensor | Dual | float) -> Tensor | Dual:
    """Return ``a + b``; a tensor or a number counts as a constant."""
    if isinstance(a, Dual):
        da = a.tangent
        if isinstance(b, Dual):
            db = b.tangent
            return make_dual(a.primal + b.primal, lambda: da + db)
        value = a.primal + b
        return make_dual(value, lambda: da.expand(value.shape))
    return add(b, a) if isinstance(b, Dual) else a + b


def multiply(a: Tensor | Dual, b: Tensor | Dual) -> Tensor | Dual:
    """Return ``a * b`` by the product rule; a tensor counts as a constant."""
    if isinstance(a, Dual):
        pa, da = a.primal, a.tangent
        if isinstance(b, Dual):
            pb, db = b.primal, b.tangent
            return make_dual(pa * pb, lambda: da * pb + pa * db)
        constant = b
        return make_dual(pa * constant, lambda: da * constant)
    return multiply(b, a) if isinstance(b, Dual) else a * b


def concatenate(parts: Sequence[Tensor | Dual], dim: int) -> Tensor | Dual:
    """Concatenate tensors and duals along ``dim``; a tensor counts as a constant."""
    value = torch.cat([primal(part) for part in parts], dim)
    if not any(isinstance(part, Dual) for part in parts):
        return value

    def tangent() -> Tensor:
        return torch.cat([part.tangent if isinstance(part, Dual) else torch.zeros_like(part) for part in parts], dim)

    return make_dual(value, tangent)


def primal(x: Tensor | Dual) -> Tensor:
    """Return the value of a tensor or of a dual, without the derivative."""
    return x.primal if isinstance(x, Dual) else x


@contextmanager
def skip_tangents() -> Iterator[None]:
    """Compute primals only.

    Activation checkpointing runs a block again in the backward pass, where nobody reads the tangents any more.
    """
    global _skip_tangents
    previous, _skip_tangents = _skip_tangents, True
    try:
        yield
    finally:
        _skip_tangents = previous
