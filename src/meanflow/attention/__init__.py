"""Attention backends: ``(q, k, v) -> out`` on tensors or duals, chosen by name.

``q``, ``k``, ``v`` and ``out`` are ``(B, heads, N, head_dim)``; the scale is ``head_dim ** -0.5``.

=============  ====================================  =========================  =================================
name           tensors                               duals                      needs
=============  ====================================  =========================  =================================
``reference``  two matrix products and a softmax     the formula                nothing; the definition
``sdpa``       torch's choice of kernel              the formula                nothing; the default
``triton``     torch's choice of kernel              one kernel                 CUDA, Triton, head size 8 to 128
``cudnn``      torch's cuDNN kernel                  one kernel                 as ``triton``; bfloat16 or float16
``flash``      torch's FlashAttention kernel         one kernel                 as ``triton``; bfloat16 or float16
``efficient``  torch's memory-efficient kernel       one kernel                 as ``triton``
``fa2``        FlashAttention-2                      one kernel                 as ``flash``; ``flash-attn``
``fa3``        FlashAttention-3                      one kernel                 as ``flash``; ``flash_attn_interface``
=============  ====================================  =========================  =================================

The kernel for duals (``meanflow.attention.triton_forward``) computes the output and its tangent in one pass over the
keys. It stores no matrix of scores.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

from torch import Tensor

from meanflow.attention.flash_attn import fa2_attention, fa3_attention
from meanflow.attention.fused import FusedDuals
from meanflow.attention.reference import reference_attention
from meanflow.attention.sdpa import cudnn_attention, efficient_attention, flash_attention, sdpa_attention
from meanflow.dual import Dual


class Attention(Protocol):
    """An attention backend. On three duals it returns a dual."""

    def __call__(self, q: Tensor | Dual, k: Tensor | Dual, v: Tensor | Dual) -> Tensor | Dual:
        """Return ``softmax(q k^T / sqrt(head_dim)) v``, ``(B, heads, N, head_dim)``; for duals with its tangent."""
        ...


BACKENDS: dict[str, Callable[..., Tensor | Dual]] = {
    "reference": reference_attention,
    "sdpa": sdpa_attention,
    "triton": FusedDuals(sdpa_attention),
    "cudnn": FusedDuals(cudnn_attention),
    "flash": FusedDuals(flash_attention),
    "efficient": FusedDuals(efficient_attention),
    "fa2": FusedDuals(fa2_attention),
    "fa3": FusedDuals(fa3_attention),
}
# Modules that backends import, with the package that installs each of them.
PACKAGES = {
    "triton": "triton",
    "flash_attn": "flash-attn",
    "flash_attn_interface": "FlashAttention-3 for Hopper",
}
# Modules that a backend imports beside torch.
MODULES = {
    "triton": ("triton",),
    "cudnn": ("triton",),
    "flash": ("triton",),
    "efficient": ("triton",),
    "fa2": ("flash_attn", "triton"),
    "fa3": ("flash_attn_interface", "triton"),
}


def get_attention(name: str) -> Attention:
    """Return the backend called ``name``.

    Raises:
        ValueError: If there is no backend of that name.
        ImportError: If the backend needs a package that is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"attention must be one of {sorted(BACKENDS)}, got {name!r}")
    for module in MODULES.get(name, ()):
        if find_spec(module) is None:
            raise ImportError(f"attention={name} needs {PACKAGES[module]}: there is no module {module!r}")
    return BACKENDS[name]
