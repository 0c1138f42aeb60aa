"""``torch.library`` operators of the fused attention kernels, with shapes, gradients and FLOP counts.

``meanflow::fused_attention`` computes the output of attention, its tangent and the log-sum-exp of the scores.
``meanflow::fused_attention_backward`` computes the gradients through the output. Tangents have no gradients, because
nothing in this project differentiates a tangent. ``torch.compile`` sees each operator as one node. The first call
imports Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# The kernels are tuned for each number of blocks of 64 tokens. Beyond 16 blocks the choice hardly changes.
LENGTH_STEP, NUM_LENGTH_CLASSES = 64, 16


def _rows(x: Tensor) -> Tensor:
    """Make the last axis contiguous. The kernels take the strides of the other axes as arguments."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(x: Tensor) -> tuple[int, ...]:
    """Return the strides of samples, heads and rows; 0 along axes of one entry, whose stride torch does not define."""
    return tuple(0 if size == 1 else step for size, step in zip(x.shape[:3], x.stride()[:3], strict=True))


def _aligned_strides(*tensors: Tensor) -> tuple[int, list[tuple[int, ...]]]:
    """Return the unit of the strides, 8 or 1, and the strides in that unit. With unit 8 the kernels load wide words."""
    strides = [_strides(x) for x in tensors]
    alignment = 8 if all(step % 8 == 0 for steps in strides for step in steps) else 1
    return alignment, [tuple(step // alignment for step in steps) for steps in strides]


def _empty_heads(like: Tensor) -> Tensor:
    """Allocate ``(B, N, heads, head_dim)``, seen as ``(B, heads, N, head_dim)``: merging heads is then a view."""
    batch, heads, length, head_dim = like.shape
    return like.new_empty(batch, length, heads, head_dim).transpose(1, 2)


def _float32_products() -> str:
    """Return torch's setting for products of float32 matrices: ``tf32`` or ``ieee`` (exact)."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch 2.9
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"


def _shape_arguments(x: Tensor) -> dict[str, int | float | str]:
    from meanflow.attention.triton_blocks import piece_widths

    _, heads, length, head_dim = x.shape
    low, high = piece_widths(head_dim)
    return {
        "num_heads": heads,
        "length": length,
        "length_class": min(-(-length // LENGTH_STEP), NUM_LENGTH_CLASSES),
        "scale": head_dim**-0.5,
        "HEAD_DIM": head_dim,
        "LO": low,
        "HI": high,
        "PRECISION": _float32_products(),
    }


def _check(*tensors: Tensor) -> None:
    from meanflow.attention.triton_blocks import INTERPRETED

    first = tensors[0]
    if any(x.shape != first.shape or x.dtype != first.dtype or x.device != first.device for x in tensors):
        described = ", ".join(f"{tuple(x.shape)} {x.dtype} {x.device}" for x in tensors)
        raise ValueError(f"attention=triton needs tensors of one shape, type and device, got {described}")
    if first.dtype not in DTYPES:
        raise ValueError(f"attention=triton computes in bfloat16, float16 or float32, got {first.dtype}")
    if first.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"attention=triton needs a CUDA device, got tensors on {first.device} "
            "(TRITON_INTERPRET=1 runs it on a CPU, slowly, for tests)"
        )


@torch.library.custom_op("meanflow::fused_attention", mutates_args=())
def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return attention, its tangent and the log-sum-exp of its scores.

    Sums are float32. Products of float32 matrices are TF32 or exact, by torch's setting for products of matrices.

    Args:
        q, k, v: ``(B, heads, N, head_dim)`` of any strides, bfloat16, float16 or float32. ``head_dim`` is a multiple of
            8 up to 128.
        dq, dk, dv: Tangents of ``q``, ``k`` and ``v``; three times ``None`` to compute no tangent.

    Returns:
        ``out (B, heads, N, head_dim)``; ``d_out (B, heads, N, head_dim)``, empty without tangents; ``lse
        (B, heads, N)``, float32, with the natural logarithm.

    Raises:
        ValueError: If data type, device or head size are not supported, or the tensors differ in one of them.
    """
    from meanflow.attention.triton_forward import attention_forward_kernel

    primals = [_rows(x) for x in (q, k, v)]
    tangents = [_rows(x) for x in (dq, dk, dv) if x is not None]
    _check(*primals, *tangents)
    out = _empty_heads(q)
    d_out = _empty_heads(q) if tangents else q.new_empty(0)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    inputs = [*primals, *(tangents or primals)]
    alignment, strides = _aligned_strides(*inputs, out)
    attention_forward_kernel[_grid("BLOCK_Q", q)](
        *inputs,
        out,
        d_out,
        lse,
        *strides,
        WITH_TANGENT=bool(tangents),
        ALIGNMENT=alignment,
        **_shape_arguments(q),
    )
    return out, d_out, lse


def _grid(block: str, x: Tensor) -> Callable[[Mapping[str, int]], tuple[int]]:
    batch, heads, length, _ = x.shape
    return lambda meta: (batch * heads * -(-length // meta[block]),)


@fused_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    d_out = q.new_empty(0) if dq is None else _empty_heads(q)
    return _empty_heads(q), d_out, q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("meanflow::fused_attention_backward", mutates_args=())
def fused_attention_backward(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``q``, ``k`` and ``v`` for the gradient ``g`` of ``out``.

    Args:
        g, q, k, v, out: ``(B, heads, N, head_dim)``.
        lse: Log-sum-exp of the scores ``(B, heads, N)``, float32.
    """
    from meanflow.attention.triton_backward import grad_kv_kernel, grad_q_kernel

    inputs = [_rows(x) for x in (g, q, k, v)]
    _check(*inputs)
    grads = [_empty_heads(q) for _ in range(3)]
    delta = torch.empty_like(lse)
    alignment, strides = _aligned_strides(*inputs, out, grads[0])
    arguments = {"ALIGNMENT": alignment, **_shape_arguments(q)}
    grid = _grid("BLOCK", q)
    grad_q_kernel[grid](*inputs, out, lse, delta, grads[0], *strides, **arguments)
    grad_kv_kernel[grid](*inputs, lse, delta, grads[1], grads[2], *strides[:4], strides[5], **arguments)
    return grads[0], grads[1], grads[2]


@fused_attention_backward.register_fake
def _(g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_heads(q), _empty_heads(q), _empty_heads(q)


def _setup_context(
    ctx: BackwardCFunction,
    inputs: tuple[Tensor, Tensor, Tensor, *tuple[Tensor | None, ...]],
    output: tuple[Tensor, Tensor, Tensor],
) -> None:
    out, d_out, lse = output
    ctx.save_for_backward(*inputs[:3], out, lse)
    ctx.mark_non_differentiable(d_out, lse)
    ctx.set_materialize_grads(False)


def _backward(ctx: BackwardCFunction, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = (None,) * 3 if g is None else torch.ops.meanflow.fused_attention_backward(g, *ctx.saved_tensors)
    return (*grads, None, None, None)


fused_attention.register_autograd(_backward, setup_context=_setup_context)


Shape = tuple[int, ...]


def _forward_flops(q: Shape, k: Shape, v: Shape, dq: Shape | None, *_: object, **__: object) -> int:
    """Count two matrix products, and four more for the tangent."""
    batch, heads, length, head_dim = q
    return (4 if dq is None else 12) * batch * heads * length**2 * head_dim


def _backward_flops(g: Shape, *_: object, **__: object) -> int:
    """Count five matrix products, as torch counts its own backward of attention."""
    batch, heads, length, head_dim = g
    return 10 * batch * heads * length**2 * head_dim


# FlopCounterMode does not know these operators. Hand it these formulas as custom_mapping.
FLOP_FORMULAS: dict[torch._ops.OpOverloadPacket, Callable[..., int]] = {
    torch.ops.meanflow.fused_attention: _forward_flops,
    torch.ops.meanflow.fused_attention_backward: _backward_flops,
}
