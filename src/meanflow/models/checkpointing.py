"""Running a block again in the backward pass instead of keeping its activations."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meanflow.dual import Dual, skip_tangents


def run_checkpointed(block: nn.Module, *arguments: Tensor | Dual) -> Tensor | Dual:
    """Call a block. If gradients are enabled, keep its arguments only and run it again in the backward pass."""
    if not torch.is_grad_enabled():
        return block(*arguments)
    # The second run of a compiled block must be the graph of the first run.
    if torch.compiler.is_compiling() or block._compiled_call_impl is not None:
        return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
    # The backward pass needs the primals of the second run only.
    contexts = lambda: (nullcontext(), skip_tangents())
    return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
