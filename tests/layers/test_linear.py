import pytest
import torch

from meanflow.layers import Linear
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, normal


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_dual_agrees_with_jvp(shape, bias):
    layer = Linear(5, 4, bias=bias).double()
    assert_dual_is_jvp(layer, [normal(*shape)], [normal(*shape, seed=1)], layer.parameters())


def test_value_is_that_of_torch():
    layer = Linear(5, 4).double()
    x = normal(3, 5)
    assert_equal_to_rounding(layer(x), x @ layer.weight.T + layer.bias, relative=1e-14)
    assert isinstance(layer, torch.nn.Linear)
