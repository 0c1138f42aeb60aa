"""Attention of tensors by the ``flash-attn`` packages, for half precision on CUDA."""

from __future__ import annotations

from torch import Tensor


def fa2_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention of ``(B, heads, N, head_dim)`` by FlashAttention-2 (package ``flash-attn``)."""
    from flash_attn import flash_attn_func

    return flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def fa3_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute attention of ``(B, heads, N, head_dim)`` by FlashAttention-3 (``flash_attn_interface``, for Hopper)."""
    from flash_attn_interface import flash_attn_func

    out = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)))
    # Early releases also return the log-sum-exp.
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
