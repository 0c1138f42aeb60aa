"""Attention by ``torch.nn.functional.scaled_dot_product_attention``, with the kernel of torch's or of our choice."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanflow.attention.reference import attention_tangent
from meanflow.dual import Dual, make_dual, primal


def sdpa_attention(q: Tensor | Dual, k: Tensor | Dual, v: Tensor | Dual) -> Tensor | Dual:
    """Compute values by fused attention, and tangents of duals by the reference formula.

    Args:
        q, k, v: Three tensors or three duals, ``(B, heads, N, head_dim)``.
    """
    out = functional.scaled_dot_product_attention(primal(q), primal(k), primal(v))
    if isinstance(q, Dual) and isinstance(k, Dual) and isinstance(v, Dual):
        return make_dual(out, lambda: attention_tangent(q, k, v))
    return out


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention of tensors by cuDNN's kernel, for half precision on CUDA."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return functional.scaled_dot_product_attention(q, k, v)


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention of tensors by torch's FlashAttention kernel, for half precision on CUDA."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return functional.scaled_dot_product_attention(q, k, v)


def efficient_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention of tensors by torch's memory-efficient kernel, on CUDA."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return functional.scaled_dot_product_attention(q, k, v)
