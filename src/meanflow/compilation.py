"""``torch.compile`` of a training step, as one graph or block by block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from meanflow.types import LossOutput

# Variants of one function that may be compiled: with and without gradients, on tensors, on duals, with a fixed and with a
# variable number of samples, and for training and sampling. torch's own limit of 8 is meant to catch runaways.
NUM_VARIANTS = 32


class CompiledObjective:
    """An objective whose losses are computed by one compiled graph: forward, guidance and derivative.

    Which samples guidance evaluates is planned outside the graph, on the CPU. Their number varies from step to step: the
    graph is compiled for any number, once, and does not wait for the device.

    Args:
        objective: With ``plan(draws, x)`` and ``loss(model, x, y, plan)``.
        options: Those of ``torch.compile``.
    """

    def __init__(self, objective: Any, **options: Any) -> None:
        self.objective = objective
        self._loss = torch.compile(objective.loss, fullgraph=True, **options)

    def __call__(self, model: Any, x: Tensor, y: Tensor, draws: Any, *more: Any) -> LossOutput:
        """Return what the objective returns."""
        plan = self.objective.plan(draws, x)
        for tensor in plan.variable():
            if len(tensor) > 1:  # none and one are cases of their own
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        allow_variants()
        return self._loss(model, x, y, plan, *more)


def compile_blocks(network: nn.Module, **options: Any) -> None:
    """Compile the transformer blocks in place: equal blocks share their code, which is ready in seconds, not minutes."""
    allow_variants()
    for blocks in network.children():
        if isinstance(blocks, nn.ModuleList):
            for block in blocks:
                block.compile(**options)


def allow_variants() -> None:
    """Let torch keep as many variants of a compiled function as training needs."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, NUM_VARIANTS)
