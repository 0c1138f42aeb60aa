"""Attention by ``torch.nn.functional.scaled_dot_product_attention``."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

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
