import pytest
import torch
from torch.utils import _pytree as pytree

from meanflow.dual import Dual, add, concatenate, linear_map, make_dual, multiply, primal, skip_tangents
from meanflow.types import FlowMapOutput
from tests.duals import assert_dual_is_jvp, normal

CONSTANT = normal(1, 4, seed=5)

# Each written once, for tensors and duals.
OPERATIONS = {
    "add": add,
    "add a constant": lambda a, b: add(a, CONSTANT),
    "add to a constant": lambda a, b: add(CONSTANT, b),
    "add a number": lambda a, b: add(a, 2.5),
    "add what broadcasts": lambda a, b: add(a, b[:1]),
    "multiply": multiply,
    "multiply by a constant": lambda a, b: multiply(a, CONSTANT),
    "multiply a constant": lambda a, b: multiply(CONSTANT, b),
    "multiply what broadcasts": lambda a, b: multiply(a[:, :1], b),
    "square": lambda a, b: multiply(a, a),
    "linear_map": lambda a, b: linear_map(lambda x: x.sum(0) @ torch.ones(4, 2).double(), a),
    "chunk": lambda a, b: multiply(*a.chunk(2, dim=1)),
    "chunk of uneven parts": lambda a, b: add(*b.chunk(2)[:1], b.chunk(2)[1]),
    "getitem": lambda a, b: multiply(a[1], b[:, 2:3]),
    "getitem by indices": lambda a, b: multiply(a[torch.tensor([2, 2, 0])], b),
    "unsqueeze": lambda a, b: multiply(a.unsqueeze(1), b.unsqueeze(0)),
    "concatenate": lambda a, b: concatenate([a, multiply(a, b)], dim=0),
    "concatenate with constants": lambda a, b: concatenate([CONSTANT, b, CONSTANT, a[1:]], dim=0),
    "concatenate columns": lambda a, b: concatenate([b[:, :1], a], dim=1)[:, :4],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_agree_with_jvp(name):
    function = OPERATIONS[name]
    a, b, da, db = (normal(3, 4, seed=seed) for seed in range(4))

    def both(a, b):  # an operation may use one argument only
        return add(function(a, b), multiply(a[:1, :1], b[:1, :1]))

    assert_dual_is_jvp(both, (a, b), (da, db))


def test_sum_with_something_larger_has_a_tangent_of_the_full_shape():
    total = add(Dual(normal(1, 4), normal(1, 4, seed=1)), torch.zeros(3, 4, dtype=torch.float64))
    assert total.primal.shape == total.tangent.shape == (3, 4)
    torch.testing.assert_close(total.tangent, normal(1, 4, seed=1).expand(3, 4), rtol=0, atol=0)


def test_operations_on_plain_tensors_stay_plain():
    a, b = normal(3, 4), normal(3, 4, seed=1)
    torch.testing.assert_close(add(a, b), a + b, rtol=0, atol=0)
    torch.testing.assert_close(multiply(a, b), a * b, rtol=0, atol=0)
    torch.testing.assert_close(linear_map(torch.Tensor.sum, a), a.sum(), rtol=0, atol=0)
    assert torch.equal(concatenate([a, b], dim=1), torch.cat([a, b], dim=1))
    assert primal(a) is a


def test_attributes_are_those_of_the_primal():
    dual = Dual(normal(3, 4), normal(3, 4, seed=1))
    assert (dual.shape, dual.dtype, dual.device) == ((3, 4), torch.float64, torch.device("cpu"))
    assert primal(dual) is dual.primal
    assert "primal=" in repr(dual)
    assert "tangent=" in repr(dual)


def test_primals_are_tracked_and_tangents_never():
    weight = normal(3, 4).requires_grad_()
    x = Dual(weight, normal(3, 4, seed=1))
    for result in (add(x, x), add(x, weight), multiply(x, x), multiply(weight, x), x[1], x.unsqueeze(0), x.chunk(2)[0]):
        assert result.primal.requires_grad
        assert not result.tangent.requires_grad


def test_dual_is_a_pytree_node():
    dual = Dual(normal(3, 4), normal(3, 4, seed=1))
    leaves, structure = pytree.tree_flatten(dual)
    assert leaves[0] is dual.primal
    assert leaves[1] is dual.tangent
    again = pytree.tree_unflatten(leaves, structure)
    assert isinstance(again, Dual)
    assert again.primal is dual.primal
    assert again.tangent is dual.tangent

    doubled = pytree.tree_map(lambda a: 2 * a, dual)
    torch.testing.assert_close(doubled.primal, 2 * dual.primal)
    torch.testing.assert_close(doubled.tangent, 2 * dual.tangent)


def test_pytree_functions_reach_the_tensors_inside_an_output():
    output = FlowMapOutput(u=Dual(normal(3, 4), normal(3, 4, seed=1)), logvar=normal(3))
    single = pytree.tree_map(torch.Tensor.float, output)
    assert isinstance(single.u, Dual)
    assert [a.dtype for a in pytree.tree_leaves(single)] == [torch.float32] * 3


def test_skip_tangents_computes_primals_only_and_ends_with_the_block():
    x = Dual(normal(4, 4), normal(4, 4, seed=1))
    evaluated = []

    def tangent():
        evaluated.append(True)
        return x.tangent

    with skip_tangents():
        assert concatenate([x, x.primal], dim=0).tangent is None
        inside = multiply(add(x, x).unsqueeze(0), x)
        chunks = inside.chunk(2, dim=1)
        make_dual(x.primal, tangent)
        with skip_tangents():
            pass
        assert multiply(x, x).tangent is None  # leaving an inner block does not end the outer one
    assert inside.tangent is None
    assert [chunk.tangent for chunk in chunks] == [None, None]
    assert not evaluated
    torch.testing.assert_close(inside.primal, multiply(add(x, x).unsqueeze(0), x).primal, rtol=0, atol=0)
    assert multiply(x, x).tangent is not None


def test_skip_tangents_ends_when_the_block_fails():
    x = Dual(normal(2), normal(2, seed=1))
    with pytest.raises(RuntimeError, match="inside"), skip_tangents():
        raise RuntimeError("inside")
    assert multiply(x, x).tangent is not None
