import pytest
import torch

from meanflow.dual import Dual
from meanflow.layers import rotary_table, rotate
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, normal


def test_angles_are_positions_times_frequencies():
    angles = rotary_table(5, 8)
    assert angles.shape == (5, 4)
    for position in range(5):
        for i, frequency in enumerate((1.0, 0.1, 0.01, 0.001)):
            assert angles[position, i].item() == pytest.approx(position * frequency, rel=1e-14)
    assert_equal_to_rounding(rotary_table(3, 4, theta=100.0)[2], torch.tensor([2.0, 0.2]).double(), relative=1e-7)


def test_an_odd_head_dimension_is_refused():
    with pytest.raises(ValueError, match="the head dimension must be even for rotary embeddings, got 7"):
        rotary_table(5, 7)


def test_adjacent_pairs_are_complex_numbers_that_are_turned():
    x, angles = normal(2, 3, 5, 8), rotary_table(5, 8)
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.exp(1j * angles)
    assert_equal_to_rounding(rotate(x, angles), torch.view_as_real(turned).flatten(-2), relative=1e-14)
    assert torch.equal(rotate(x, angles)[:, :, 0], x[:, :, 0])  # position 0


def test_products_depend_on_the_distance_of_positions_only():
    q, k = (normal(1, 1, 1, 8, seed=seed).expand(1, 1, 6, 8) for seed in (0, 1))
    angles = rotary_table(6, 8)
    products = (rotate(q, angles) @ rotate(k, angles).mT)[0, 0]
    for distance in range(-5, 6):
        diagonal = products.diagonal(distance)
        assert_equal_to_rounding(diagonal, diagonal[:1].expand_as(diagonal), relative=1e-13)


def test_dual_agrees_with_jvp():
    angles = rotary_table(5, 8)
    assert_dual_is_jvp(lambda x: rotate(x, angles), [normal(2, 3, 5, 8)], [normal(2, 3, 5, 8, seed=1)])


def test_low_precision_is_turned_in_float32_and_returned():
    x, angles = normal(2, 3, 5, 8).bfloat16(), rotary_table(5, 8)
    dual = rotate(Dual(x, 2 * x), angles)
    expected = rotate(x.float(), angles).bfloat16()
    assert torch.equal(dual.primal, expected)
    assert torch.equal(dual.tangent, 2 * expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_product_of_complex_numbers_is_the_formula(dtype):
    x = normal(3, 5, 4, 16).to(dtype).transpose(1, 2).requires_grad_()  # the heads of a token side by side in memory
    angles = rotary_table(5, 16)
    even, odd, cos, sin = x[..., 0::2], x[..., 1::2], angles.cos().to(dtype), angles.sin().to(dtype)
    expected = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
    turned = rotate(x, angles)
    assert torch.equal(turned, expected)
    weight = normal(3, 5, 4, 16, seed=1).to(dtype).transpose(1, 2)
    gradient, expected_gradient = (torch.autograd.grad(value, x, weight)[0] for value in (turned, expected))
    assert torch.equal(gradient, expected_gradient)
