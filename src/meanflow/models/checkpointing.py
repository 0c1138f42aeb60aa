"""Running a block again in the backward pass instead of keeping its activations."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from meanflow.dual import skip_tangents


def run_checkpointed(block: nn.Module, *arguments: Any) -> Any:
    """Call a block; if a gradient will be wanted, keep its arguments only."""
    if not torch.is_grad_enabled():
        return block(*arguments)
    # Compiled, the second run must be the graph of the first.
    if torch.compiler.is_compiling() or block._compiled_call_impl is not None:
        return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
    # The second run is for the backward pass, which needs primals only.
    contexts = lambda: (nullcontext(), skip_tangents())
    return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
