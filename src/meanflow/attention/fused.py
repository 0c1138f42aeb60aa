"""Attention of duals in one pass over the keys, beside any attention of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from meanflow.attention.triton_operator import fused_attention
from meanflow.dual import Dual, make_dual


@dataclass(frozen=True)
class FusedDuals:
    """A backend: tensors go to ``tensors``, duals to the Triton kernel.

    Args:
        tensors: Attention of tensors ``(B, heads, N, head_dim)``.
    """

    tensors: Callable[..., Tensor | Dual]

    def __call__(self, q: Tensor | Dual, k: Tensor | Dual, v: Tensor | Dual) -> Tensor | Dual:
        """Return attention of tensors or of three duals; errors as ``fused_attention``."""
        if isinstance(q, Dual) and isinstance(k, Dual) and isinstance(v, Dual):
            # Without tangents (in a checkpointed block's second run) the same operator saves the same tensors.
            out, d_out, _ = fused_attention(q.primal, k.primal, v.primal, q.tangent, k.tangent, v.tangent)
            return make_dual(out, lambda: d_out)
        return self.tensors(q, k, v)
