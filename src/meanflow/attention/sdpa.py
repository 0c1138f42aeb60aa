"""Attention by ``torch.nn.functional.scaled_dot_product_attention``, by torch's choice of kernel or by ours."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow.attention.reference import attention_tangent
from meanflow.dual import Dual, make_dual, primal


def sdpa_attention(q: Tensor | Dual, k: Tensor | Dual, v: Tensor | Dual) -> Tensor | Dual:
    """Fused attention for values; tangents of duals come from the reference formula.

    Args:
        q, k, v: Tensors, or three duals, ``(B, heads, N, head_dim)``.
    """
    out = functional.scaled_dot_product_attention(primal(q), primal(k), primal(v))
    if isinstance(q, Dual) and isinstance(k, Dual) and isinstance(v, Dual):
        return make_dual(out, lambda: attention_tangent(q, k, v))
    return out


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of tensors by cuDNN's kernel; half precision on CUDA."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return functional.scaled_dot_product_attention(q, k, v)


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of tensors by the FlashAttention kernel in torch; half precision on CUDA."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return functional.scaled_dot_product_attention(q, k, v)


def efficient_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of tensors by the memory-efficient kernel in torch; on CUDA."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return functional.scaled_dot_product_attention(q, k, v)
