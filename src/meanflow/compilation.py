"""Compiled training steps and networks, and CUDA graphs of networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from meanflow.dual import Dual
from meanflow.types import Condition, DrawsT, LossOutput, Network, NetworkT, Objective, Output, PlanT

# Variants of one function that may be compiled: with and without gradients, on tensors and on duals, with a fixed and
# with a variable number of samples, for training and sampling. torch's own limit of 8 is meant to catch runaways.
NUM_VARIANTS = 32


class CompiledObjective(Generic[NetworkT, DrawsT, PlanT]):
    """An objective whose losses are computed by one compiled graph: forward, guidance and derivative.

    Which samples guidance evaluates is planned outside the graph, on the CPU. Their number varies from step to step:
    the graph is compiled for any number, once, and does not wait for the device.

    Args:
        objective: The objective, whose ``loss`` is compiled.
        options: Those of ``torch.compile``.
    """

    def __init__(self, objective: Objective[NetworkT, DrawsT, PlanT], **options: Any) -> None:
        self.objective = objective
        self._loss: Callable[..., LossOutput] = torch.compile(objective.loss, fullgraph=True, **options)

    def __call__(self, model: NetworkT, x: Tensor, y: Tensor, draws: DrawsT, *more: object) -> LossOutput:
        """Return what the objective returns."""
        plan = self.objective.plan(draws, x)
        for tensor in plan.variable():
            if len(tensor) > 1:  # none and one are cases of their own
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        allow_variants()
        return self._loss(model, x, y, plan, *more)


class GraphedNetwork:
    """A network whose evaluations without gradients replay CUDA graphs: no time between kernels.

    A graph is recorded at the first call with arguments of certain shapes. For few shapes: each graph keeps its memory.

    Args:
        network: Network on a GPU, in evaluation mode. Its weights may change in place, but not move.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.num_classes, self.null_label = network.num_classes, network.null_label
        self.in_channels, self.input_size = network.in_channels, network.input_size
        self.output = network.output
        self.output_field, self.takes_guidance = network.output_field, network.takes_guidance
        self.sampling_arguments = network.sampling_arguments
        self._recordings: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Output]] = {}

    @torch.no_grad()
    def __call__(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition, **arguments: str) -> Output:
        """Return the network's output, in tensors of its own."""
        inputs, structure = tree_flatten((z_t, t, r, cond))
        key = (*((tuple(a.shape), a.dtype) for a in inputs if a is not None), *sorted(arguments.items()))
        if key not in self._recordings:
            self._recordings[key] = self._record(inputs, structure, arguments)
        graph, own_inputs, output = self._recordings[key]
        for own, given in zip(own_inputs, inputs, strict=True):
            if own is not None:
                own.copy_(given)
        graph.replay()
        return tree_map_only(Tensor, Tensor.clone, output)

    def _record(
        self, inputs: list[Tensor], structure: TreeSpec, arguments: dict[str, str]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Output]:
        own_inputs = [None if a is None else a.clone() for a in inputs]
        z_t, t, r, cond = tree_unflatten(own_inputs, structure)
        call = lambda: self.network(z_t, t, r, cond, **arguments)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # first calls choose algorithms and allocate, which a recording must not
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Casts that autocast remembers would be missing from the recording.
        torch.clear_autocast_cache()
        with torch.cuda.graph(graph):
            output = call()
        return graph, own_inputs, output


def compile_blocks(network: nn.Module, **options: Any) -> None:
    """Compile the transformer blocks in place: equal blocks share their code, so that it is ready in seconds."""
    allow_variants()
    for block in _blocks(network):
        block.compile(**options)


def compile_blocks_to_shard(network: nn.Module, **options: Any) -> None:
    """Compile the ``forward`` of the blocks in place and not the hooks around it, in which a sharded one communicates.

    The network can no longer be copied.
    """
    allow_variants()
    for block in _blocks(network):
        block.forward = torch.compile(block.forward, **options)


def _blocks(network: nn.Module) -> list[nn.Module]:
    return [block for child in network.children() if isinstance(child, nn.ModuleList) for block in child]


def allow_variants() -> None:
    """Let torch keep as many variants of a compiled function as training needs."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, NUM_VARIANTS)
