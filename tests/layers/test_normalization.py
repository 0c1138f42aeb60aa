import pytest
import torch

from meanflow.dual import Dual
from meanflow.layers import LayerNorm, RMSNorm
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, central_difference, normal


def rms_norm() -> RMSNorm:
    layer = RMSNorm(6).double()
    layer.scale.data = 1 + normal(6, seed=9)
    return layer


@pytest.mark.parametrize("layer", [LayerNorm(6), rms_norm()])
def test_dual_agrees_with_jvp(layer):
    assert_dual_is_jvp(layer, [0.5 + normal(2, 3, 6)], [normal(2, 3, 6, seed=1)], layer.parameters())


@pytest.mark.parametrize("layer", [LayerNorm(6), rms_norm()])
def test_dual_agrees_with_jvp_where_eps_matters(layer):
    assert_dual_is_jvp(layer, [1e-3 * normal(2, 3, 6)], [normal(2, 3, 6, seed=1)], layer.parameters())


@pytest.mark.parametrize("layer", [LayerNorm(6), rms_norm()])
def test_tangent_agrees_with_central_differences(layer):
    x, dx = 2 + normal(2, 3, 6), normal(2, 3, 6, seed=1)
    with torch.no_grad():
        assert_equal_to_rounding(layer(Dual(x, dx)).tangent, central_difference(layer, [x], [dx]), relative=1e-8)


def test_closed_forms():
    x = 0.5 + normal(2, 6)
    centered = x - x.mean(-1, keepdim=True)
    expected = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert_equal_to_rounding(LayerNorm(6)(x), expected, relative=1e-14)
    layer = rms_norm()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.scale
    assert_equal_to_rounding(layer(x), expected, relative=1e-14)


def test_low_precision_is_normalized_in_float32():
    x = normal(4, 6).bfloat16()
    dual = Dual(x, x)
    assert LayerNorm(6)(dual).primal.dtype == LayerNorm(6)(dual).tangent.dtype == torch.float32
    layer = RMSNorm(6)
    assert layer(dual).primal.dtype == layer(dual).tangent.dtype == torch.bfloat16
    # The mean of the squares of 300 is beyond float16, not beyond float32.
    half = torch.full((1, 6), 300.0, dtype=torch.float16)
    torch.testing.assert_close(layer(half), torch.ones_like(half))
