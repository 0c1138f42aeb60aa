import pytest
import torch

from meanflow.dual import Dual
from meanflow.layers import GELU, SiLU
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, central_difference, normal


@pytest.mark.parametrize("layer", [SiLU(), GELU()])
def test_dual_agrees_with_jvp(layer):
    assert_dual_is_jvp(layer, [3 * normal(5, 7)], [normal(5, 7, seed=1)])


@pytest.mark.parametrize("layer", [SiLU(), GELU()])
def test_tangent_agrees_with_central_differences(layer):
    x, dx = 3 * normal(5, 7), normal(5, 7, seed=1)
    assert_equal_to_rounding(layer(Dual(x, dx)).tangent, central_difference(layer, [x], [dx]), relative=1e-9)


@pytest.mark.parametrize("layer", [SiLU(), GELU()])
def test_derivative_is_finite_far_from_zero(layer):
    x = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], dtype=torch.float64)
    tangent = layer(Dual(x, torch.ones_like(x))).tangent
    torch.testing.assert_close(tangent, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]).double(), rtol=0, atol=1e-12)


def test_closed_forms():
    x = 3 * normal(5, 7)
    assert_equal_to_rounding(SiLU()(x), x / (1 + torch.exp(-x)), relative=1e-14)
    inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    assert_equal_to_rounding(GELU()(x), 0.5 * x * (1 + torch.tanh(inner)), relative=1e-14)
