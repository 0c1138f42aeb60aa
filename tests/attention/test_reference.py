"""The reference backend against the formula, entry by entry, and its tangent against the definition."""

import math

import pytest
import torch

from meanflow.attention.reference import attention_probabilities, reference_attention
from meanflow.dual import Dual
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, central_difference, normal

SHAPES = [(2, 3, 5, 8), (1, 2, 1, 4), (2, 1, 7, 6)]  # (B, heads, N, head_dim)


def inputs(shape):
    return [normal(*shape, seed=seed) for seed in range(3)], [normal(*shape, seed=seed) for seed in range(3, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_value_is_the_formula(shape):
    (q, k, v), _ = inputs(shape)
    out = reference_attention(q, k, v)
    expected = torch.empty_like(out)
    for b in range(shape[0]):
        for head in range(shape[1]):
            for i in range(shape[2]):
                weights = [math.exp(q[b, head, i].dot(key).item() / math.sqrt(shape[3])) for key in k[b, head]]
                rows = zip(weights, v[b, head], strict=True)
                expected[b, head, i] = sum(w * row for w, row in rows) / sum(weights)
    assert_equal_to_rounding(out, expected, relative=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_dual_agrees_with_jvp(shape):
    assert_dual_is_jvp(reference_attention, *inputs(shape))


def test_tangent_agrees_with_central_differences():
    primals, tangents = inputs((2, 3, 5, 8))
    out = reference_attention(*(Dual(p, d) for p, d in zip(primals, tangents, strict=True)))
    assert_equal_to_rounding(out.tangent, central_difference(reference_attention, primals, tangents), relative=1e-9)


def test_probabilities_sum_to_one_and_survive_large_scores():
    q = 1e3 * normal(1, 1, 4, 8)
    probabilities = attention_probabilities(q, q)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 1, 4, dtype=torch.float64))
    assert torch.isfinite(probabilities).all()


def test_low_precision_inputs_are_normalized_in_float32():
    q, k, v = (normal(1, 2, 6, 8, seed=seed).bfloat16() for seed in range(3))
    assert attention_probabilities(q, k).dtype == torch.float32
    dual = reference_attention(*(Dual(a, a) for a in (q, k, v)))
    assert dual.primal.dtype == dual.tangent.dtype == torch.bfloat16
