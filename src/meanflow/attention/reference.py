"""Plain softmax attention: the definition with which tests compare every other backend."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow.dual import Dual, make_dual, primal


def attention_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Return ``softmax(q k^T / sqrt(head_dim))``, ``(B, heads, N, N)``, normalized in float32 or better."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def attention_tangent(q: Dual, k: Dual, v: Dual) -> Tensor:
    """Return the derivative of attention along the tangents of ``q``, ``k`` and ``v``, ``(B, heads, N, head_dim)``.

    With ``P`` the probabilities and ``dS`` the tangent of the scores,
    ``d out = (P * (dS - rowsum(P * dS))) v + P dv``.
    """
    scale = q.shape[-1] ** -0.5
    probabilities = attention_probabilities(q.primal, k.primal)
    d_scores = (q.tangent * scale) @ k.primal.transpose(-2, -1) + (q.primal * scale) @ k.tangent.transpose(-2, -1)
    weighted = probabilities * d_scores
    d_probabilities = weighted - probabilities * weighted.sum(dim=-1, keepdim=True)
    return d_probabilities.to(v.dtype) @ v.primal + probabilities.to(v.dtype) @ v.tangent


def reference_attention(q: Tensor | Dual, k: Tensor | Dual, v: Tensor | Dual) -> Tensor | Dual:
    """Compute attention by two matrix products and a softmax.

    Args:
        q, k, v: Three tensors or three duals, ``(B, heads, N, head_dim)``.
    """
    q_value, k_value, v_value = primal(q), primal(k), primal(v)
    out = attention_probabilities(q_value, k_value).to(v_value.dtype) @ v_value
    if isinstance(q, Dual) and isinstance(k, Dual) and isinstance(v, Dual):
        return make_dual(out, lambda: attention_tangent(q, k, v))
    return out
