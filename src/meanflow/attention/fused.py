"""Backends that compute attention of duals by the Triton kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from meanflow.attention.triton_operator import fused_attention
from meanflow.dual import Dual, make_dual


@dataclass(frozen=True)
class FusedDuals:
    """A backend that hands tensors to ``tensors`` and duals to the Triton kernel.

    Args:
        tensors: Attention of tensors ``(B, heads, N, head_dim)``.
    """

    tensors: Callable[..., Tensor | Dual]

    def __call__(self, q: Tensor | Dual, k: Tensor | Dual, v: Tensor | Dual) -> Tensor | Dual:
        """Compute attention of three tensors or three duals, ``(B, heads, N, head_dim)``.

        Raises:
            ValueError: If the kernel cannot compute duals of this data type, head size or device.
        """
        if isinstance(q, Dual) and isinstance(k, Dual) and isinstance(v, Dual):
            # The second run of a checkpointed block has no tangents. It must call the same operator, which saves the
            # same tensors.
            out, d_out, _ = fused_attention(q.primal, k.primal, v.primal, q.tangent, k.tangent, v.tangent)
            return make_dual(out, lambda: d_out)
        return self.tensors(q, k, v)
