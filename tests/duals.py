"""Comparison of a computation on duals with its definition, ``torch.func.jvp`` of the plain function."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow.dual import Dual


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def jvp(function: Callable, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Any, Any]:
    """``torch.func.jvp``, the definition."""
    with warnings.catch_warnings():
        # At its first use torch compiles its own decompositions with a function that it deprecates.
        warnings.filterwarnings("ignore", message="`torch.jit.script.*` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="`torch.jit.script.*` is deprecated", category=DeprecationWarning)
        return torch.func.jvp(function, tuple(primals), tuple(tangents))


def assert_equal_to_rounding(actual: Tensor, expected: Tensor, relative: float = 1e-10) -> None:
    """The largest difference is at most ``relative`` times the largest entry."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == torch.float64
    difference, scale = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert difference <= relative * scale, f"differs by {difference:.1e}, the largest entry is {scale:.1e}"


def assert_dual_is_jvp(
    function: Callable,
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    parameters: Iterable[Tensor] = (),
    definition: Callable | None = None,
) -> None:
    """``function`` on duals agrees with its jvp in value, tangent and in the gradients of the value.

    Args:
        function: Takes tensors or duals.
        primals: Where it is evaluated.
        tangents: Along what it is differentiated.
        parameters: Further tensors whose gradients are compared.
        definition: What ``function`` must equal on tensors, where forward differentiation does not know ``function``.
    """
    definition = definition or function
    primals = [p.clone().requires_grad_() for p in primals]
    leaves = [*primals, *parameters]

    dual = function(*(Dual(p, d) for p, d in zip(primals, tangents, strict=True)))
    value, tangent = jvp(definition, primals, tangents)
    assert isinstance(dual, Dual)
    assert not dual.tangent.requires_grad
    assert_equal_to_rounding(dual.primal, value)
    assert_equal_to_rounding(dual.tangent, tangent)

    # A random linear functional of the value sees every entry of the gradient.
    weight = normal(*value.shape, seed=99)
    actual = torch.autograd.grad((weight * dual.primal).sum(), leaves)
    expected = torch.autograd.grad((weight * definition(*primals)).sum(), leaves)
    for a, b in zip(actual, expected, strict=True):
        assert_equal_to_rounding(a, b)


def central_difference(function: Callable, primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
    """Derivative along the tangents; the error is of fourth order in a step of 1e-3, so about 1e-11."""
    step = 1e-3

    def at(distance: float) -> Tensor:
        return function(*(p + distance * step * d for p, d in zip(primals, tangents, strict=True)))

    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
