"""The Triton kernels against the reference in float64, on a GPU or, without a GPU, in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from meanflow.attention.reference import reference_attention
from meanflow.attention.triton_operator import FLOP_FORMULAS, fused_attention, fused_attention_backward
from meanflow.dual import Dual
from tests.attention.devices import DEVICES
from tests.duals import normal

pytest.importorskip("triton")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Rounding of float32 in sums of some hundred terms, relative to the largest entry.
FLOAT32_ERROR = 3e-6


def problem(dtype, device, length, head_dim, batch=1, heads=1):
    """Return q, k, v, dq, dk, dv and a gradient of the output, in the memory layout of a network's ``qkv`` layer."""
    wide = (normal(batch, length, count, heads, head_dim, seed=seed) for seed, count in enumerate((3, 3, 1)))
    return [x for each in wide for x in each.to(device, dtype).permute(2, 0, 3, 1, 4).unbind()]


def by_reference(tensors, dtype):
    """Output, tangent and gradients by the formula, computed in ``dtype``."""
    q, k, v, dq, dk, dv, g = (x.to(dtype) for x in tensors)
    primals = [x.clone().requires_grad_() for x in (q, k, v)]
    dual = reference_attention(*(Dual(p, d) for p, d in zip(primals, (dq, dk, dv), strict=True)))
    return [dual.primal, dual.tangent, *torch.autograd.grad(dual.primal, primals, g)]


def by_kernel(tensors):
    """The same by the kernels, through autograd."""
    *inputs, g = tensors
    primals = [x.clone().requires_grad_() for x in inputs[:3]]
    out, d_out, _ = fused_attention(*primals, *inputs[3:])
    return [out, d_out, *torch.autograd.grad(out, primals, g)]


def assert_as_good_as_the_reference(tensors):
    """In half precision the error is at most that of the reference in the same; in float32 it is rounding."""
    dtype = tensors[0].dtype
    truth = by_reference(tensors, torch.float64)
    low = by_reference(tensors, dtype)
    names = ("out", "d_out", "grad_q", "grad_k", "grad_v")
    for name, ours, theirs, exact in zip(names, by_kernel(tensors), low, truth, strict=True):
        assert ours.dtype == dtype
        error = ours.double() - exact
        if dtype == torch.float32:
            assert error.abs().max() <= FLOAT32_ERROR * exact.abs().max(), name
        else:
            assert error.square().mean() <= (theirs.double() - exact).square().mean(), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [8, 16, 32, 64, 72, 80, 96, 120, 128])
def test_head_sizes(device, dtype, head_dim):
    assert_as_good_as_the_reference(problem(dtype, device, length=149, head_dim=head_dim))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [31, 77, 128, 256, 276, 1024, 1044])
def test_lengths(device, dtype, length):
    assert_as_good_as_the_reference(problem(dtype, device, length, head_dim=72))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("index", range(5))
def test_every_configuration_for_half_precision(monkeypatch, index):
    from meanflow.attention import triton_backward, triton_forward

    forward = triton_forward._configs()[:-1]
    backward = triton_backward._configs()[:-1]
    monkeypatch.setattr(triton_forward.attention_forward_kernel, "configs", [forward[index % len(forward)]])
    for kernel in (triton_backward.grad_q_kernel, triton_backward.grad_kv_kernel):
        monkeypatch.setattr(kernel, "configs", [backward[index % len(backward)]])
    for length in (256, 276):
        assert_as_good_as_the_reference(problem(torch.bfloat16, "cuda", length, head_dim=72, heads=3))


@pytest.mark.parametrize("device", DEVICES)
def test_one_token_attends_to_itself(device):
    q, k, v, dq, dk, dv, _ = problem(torch.float32, device, length=1, head_dim=16)
    out, d_out, _ = fused_attention(q, k, v, dq, dk, dv)
    torch.testing.assert_close(out, v)
    torch.testing.assert_close(d_out, dv)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_and_heads_are_told_apart(device):
    assert_as_good_as_the_reference(problem(torch.float32, device, length=20, head_dim=24, batch=3, heads=2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels first", "odd steps", "expanded"])
def test_memory_layouts(device, layout):
    shape = (2, 2, 9, 16)
    tensors = [normal(*shape, seed=seed).to(device, torch.float32) for seed in range(7)]
    if layout == "channels first":
        tensors = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in tensors]
    elif layout == "odd steps":
        # Rows that begin at no multiple of eight channels.
        tensors = [torch.cat([x, x[..., :3]], -1)[..., :16] for x in tensors]
    elif layout == "expanded":
        tensors = [x[:1, :, :1].expand(shape) for x in tensors]
    inputs, g = tensors[:6], tensors[6]
    out, d_out, lse = fused_attention(*inputs)
    actual = [out, d_out, *fused_attention_backward(g, *inputs[:3], out, lse)]
    for ours, exact in zip(actual, by_reference(tensors, torch.float64), strict=True):
        assert (ours.double() - exact).abs().max() <= FLOAT32_ERROR * max(exact.abs().max(), 1)


@pytest.mark.parametrize("device", DEVICES)
def test_log_sum_exp_is_natural_and_survives_large_scores(device):
    q, k, v, dq, dk, dv, _ = problem(torch.float32, device, length=40, head_dim=32)
    q = 1e3 * q
    out, d_out, lse = fused_attention(q, k, v, dq, dk, dv)
    exact = torch.logsumexp(q.double() @ k.double().transpose(-2, -1) * 32**-0.5, dim=-1)
    assert lse.shape == (1, 1, 40)
    assert lse.dtype == torch.float32
    torch.testing.assert_close(lse.double(), exact, rtol=1e-5, atol=0)
    assert torch.isfinite(out).all()
    assert torch.isfinite(d_out).all()


@pytest.mark.parametrize("device", DEVICES)
def test_without_tangents_the_value_is_the_same(device):
    q, k, v, dq, dk, dv, _ = problem(torch.float32, device, length=40, head_dim=24)
    out, d_out, lse = fused_attention(q, k, v, None, None, None)
    expected, _, expected_lse = fused_attention(q, k, v, dq, dk, dv)
    assert d_out.numel() == 0
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


# opcheck copies tensors that require gradients and then looks at theirs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_tangents", [True, False])
def test_operator_is_registered_properly(device, with_tangents):
    *inputs, g = problem(torch.float32, device, length=5, head_dim=8, heads=2)
    primals = [x.clone().requires_grad_() for x in inputs[:3]]
    torch.library.opcheck(fused_attention, (*primals, *(inputs[3:] if with_tangents else (None,) * 3)))
    out, _, lse = fused_attention(*inputs)
    torch.library.opcheck(fused_attention_backward, (g, *inputs[:3], out, lse))


@pytest.mark.parametrize("device", DEVICES)
def test_flops_are_those_of_the_products(device):
    *inputs, g = problem(torch.float32, device, length=5, head_dim=8, heads=2)
    product = 2 * 2 * 5 * 5 * 8
    for tangents, num_products in ((inputs[3:], 6), ((None,) * 3, 2)):
        with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
            out, _, lse = fused_attention(*inputs[:3], *tangents)
        assert counter.get_total_flops() == num_products * product
    with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        fused_attention_backward(g, *inputs[:3], out, lse)
    assert counter.get_total_flops() == 5 * product


@pytest.mark.parametrize("device", DEVICES)
def test_bad_inputs_are_named(device):
    *inputs, _ = problem(torch.float32, device, length=5, head_dim=8)
    with pytest.raises(ValueError, match="one shape, type and device"):
        fused_attention(inputs[0].half(), *inputs[1:])
    with pytest.raises(ValueError, match=r"got torch\.float64"):
        fused_attention(*(x.double() for x in inputs))
    for head_dim in (12, 136):
        with pytest.raises(ValueError, match=f"multiple of 8 up to 128 with attention=triton, got {head_dim}"):
            fused_attention(*problem(torch.float32, device, length=5, head_dim=head_dim)[:6])


def test_a_cpu_without_the_interpreter_is_refused():
    program = """
import torch
from meanflow.attention.triton_operator import fused_attention
fused_attention(*torch.ones(6, 1, 1, 4, 8).unbind())
"""
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True
    )
    assert b"ValueError: attention=triton needs a CUDA device, got tensors on cpu" in result.stderr
