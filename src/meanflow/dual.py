"""Dual numbers: a value that autograd tracks, with a derivative that it does not.

Training a flow map needs ``u`` with gradients and ``du_dt`` without gradients: every MeanFlow objective stops the
gradient of ``du_dt``. ``torch.func.jvp`` would track both. This project instead runs a network once on ``Dual`` inputs.
Autograd tracks the primals as usual. Tangents are computed layer by layer under ``no_grad``. The tangent of a layer is
freed as soon as the tangent of the next layer exists.

``Dual`` is a pytree node: hooks and transforms see its two tensors. This module has the rules of sums, products and
linear maps. The layers in ``meanflow.layers`` add normalization, activations and attention. Sums and products are
functions, not operators, because ``torch.compile`` cannot trace ``+`` between a tensor and another class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

T = TypeVar("T")

_skip_tangents = False
# Takes the place of a tangent while ``skip_tangents`` is active. Nothing reads it.
_SKIPPED: Tensor = None  # type: ignore[assignment]


class Dual:
    """A primal and its tangent: ``primal + epsilon * tangent`` with ``epsilon ** 2 = 0``.

    Args:
        primal: The value. Autograd tracks it.
        tangent: The derivative of the value, in the shape of the primal. Autograd does not track it.
    """

    def __init__(self, primal: Tensor, tangent: Tensor) -> None:
        self.primal = primal
        self.tangent = tangent

    def __repr__(self) -> str:
        return f"Dual(primal={self.primal!r}, tangent={self.tangent!r})"

    @property
    def shape(self) -> torch.Size:
        """Shape of the primal and of the tangent."""
        return self.primal.shape

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the primal."""
        return self.primal.dtype

    @property
    def device(self) -> torch.device:
        """Device of the primal."""
        return self.primal.device

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> Dual:
        return linear_map(lambda a: a[index], self)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Dual, ...]:
        """Split into ``chunks`` parts along ``dim``, as ``Tensor.chunk``."""
        primals = self.primal.chunk(chunks, dim)
        tangents = _no_grad(lambda: self.tangent.chunk(chunks, dim), skipped=(_SKIPPED,) * len(primals))
        return tuple(Dual(p, d) for p, d in zip(primals, tangents, strict=True))

    def unsqueeze(self, dim: int) -> Dual:
        """Insert an axis, as ``Tensor.unsqueeze``."""
        return linear_map(lambda a: a.unsqueeze(dim), self)


def _flatten(dual: Dual) -> tuple[list[Tensor], None]:
    return [dual.primal, dual.tangent], None


def _unflatten(leaves: Iterable[Tensor], _context: None) -> Dual:
    return Dual(*leaves)


pytree.register_pytree_node(Dual, _flatten, _unflatten, serialized_type_name="meanflow.dual.Dual")


def _no_grad(function: Callable[[], T], skipped: T) -> T:
    if _skip_tangents:
        return skipped
    with torch.no_grad():
        return function()


def make_dual(primal: Tensor, tangent: Callable[[], Tensor]) -> Dual:
    """Return the dual of a primal and a tangent. Every rule but ``chunk`` makes its result with this function.

    Args:
        primal: The value.
        tangent: Computes the tangent. It is called under ``no_grad``.
    """
    return Dual(primal, _no_grad(tangent, skipped=_SKIPPED))


@overload
def linear_map(function: Callable[[Tensor], Tensor], x: Dual) -> Dual: ...
@overload
def linear_map(function: Callable[[Tensor], Tensor], x: Tensor | Dual) -> Tensor | Dual: ...
def linear_map(function: Callable[[Tensor], Tensor], x: Tensor | Dual) -> Tensor | Dual:
    """Apply a linear function (a view, a permutation, a matrix) to a tensor or to both parts of a dual."""
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
    """Compute no tangents inside the context.

    Activation checkpointing runs a block again in the backward pass, which does not need tangents.
    """
    global _skip_tangents
    previous, _skip_tangents = _skip_tangents, True
    try:
        yield
    finally:
        _skip_tangents = previous
