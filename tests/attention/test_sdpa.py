import torch

from meanflow.attention.reference import reference_attention
from meanflow.attention.sdpa import sdpa_attention
from meanflow.dual import Dual
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, central_difference, normal


def test_dual_agrees_with_jvp_of_the_reference():
    # Fused attention has no forward derivative of its own, so the definition is that of the reference.
    for shape in ((2, 3, 5, 8), (1, 2, 1, 4), (2, 2, 20, 9)):
        primals, tangents = ([normal(*shape, seed=seed + first) for seed in range(3)] for first in (0, 3))
        assert_dual_is_jvp(sdpa_attention, primals, tangents, definition=reference_attention)


def test_plain_value_agrees_with_the_reference():
    q, k, v = (normal(2, 3, 5, 8, seed=seed) for seed in range(3))
    assert_equal_to_rounding(sdpa_attention(q, k, v), reference_attention(q, k, v), relative=1e-13)


def test_tangent_agrees_with_central_differences_of_the_fused_value():
    primals, tangents = ([normal(2, 3, 5, 8, seed=seed + first) for seed in range(3)] for first in (0, 3))
    out = sdpa_attention(*(Dual(p, d) for p, d in zip(primals, tangents, strict=True)))
    assert_equal_to_rounding(out.tangent, central_difference(sdpa_attention, primals, tangents), relative=1e-9)


def test_low_precision_stays_low_precision():
    q, k, v = (normal(1, 2, 6, 8, seed=seed).bfloat16() for seed in range(3))
    dual = sdpa_attention(*(Dual(a, a) for a in (q, k, v)))
    assert dual.primal.dtype == dual.tangent.dtype == torch.bfloat16
