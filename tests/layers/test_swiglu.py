import torch
from torch.nn import functional

from meanflow.layers import SwiGLU
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, normal


def test_dual_agrees_with_jvp_of_the_closed_form():
    layer = SwiGLU(5, 7).double()

    def closed_form(x: torch.Tensor) -> torch.Tensor:
        return (functional.silu(x @ layer.w1.weight.T) * (x @ layer.w3.weight.T)) @ layer.w2.weight.T

    x = normal(2, 3, 5)
    assert_equal_to_rounding(layer(x), closed_form(x), relative=1e-13)
    assert_dual_is_jvp(layer, [x], [normal(2, 3, 5, seed=1)], layer.parameters(), definition=closed_form)


def test_there_are_no_biases():
    shapes = {name: tuple(parameter.shape) for name, parameter in SwiGLU(5, 7).named_parameters()}
    assert shapes == {"w1.weight": (7, 5), "w2.weight": (5, 7), "w3.weight": (7, 5)}
