import torch

from meanflow.attention.reference import reference_attention
from meanflow.attention.sdpa import sdpa_attention
from meanflow.dual import Dual
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, central_difference, normal


def test_dual_agrees_with_jvp_of_the_reference():
    # Fused attention has no forward derivative of its own, so the definition is that of the reference.
    for shape in ((2, 3, 5, 8), (2, 2, 20, 9)):
        primals, tangents = ([normal(*shape, seed=seed + first) for seed in range(3)] for first in (0, 3))
        assert_dual_is_jvp(sdpa_attention, primals, tangents, definition=reference_attention)


def test_a_single_token_attends_to_itself_alone():
    """The one probability is 1, so that the value is v, and q and k have no influence.

    Their gradients are the difference of two equal dot products of v with the gradient of the output, which the fused
    kernel sums in different orders. Whether the difference is exactly zero depends on the vector width of the
    processor, so that it is compared with the dot products and not with zero.
    """
    primals, tangents = ([normal(1, 2, 1, 4, seed=seed + first) for seed in range(3)] for first in (0, 3))
    leaves = [primal.requires_grad_() for primal in primals]
    out = sdpa_attention(*(Dual(p, d) for p, d in zip(primals, tangents, strict=True)))
    weight = normal(1, 2, 1, 4, seed=99)
    d_q, d_k, d_v = torch.autograd.grad((weight * out.primal).sum(), leaves)
    q, k, v = (primal.detach() for primal in primals)
    assert_equal_to_rounding(out.primal.detach(), v)
    assert_equal_to_rounding(out.tangent, tangents[2])
    assert_equal_to_rounding(d_v, weight)
    dot_product, scale = (weight * v).sum(-1, keepdim=True), v.shape[-1] ** -0.5
    assert_equal_to_rounding(d_q + scale * dot_product * k, scale * dot_product * k)
    assert_equal_to_rounding(d_k + scale * dot_product * q, scale * dot_product * q)


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
