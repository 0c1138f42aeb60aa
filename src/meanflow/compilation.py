"""Compiled training steps and networks, and CUDA graphs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from meanflow.dual import Dual
from meanflow.types import Condition, DrawsT, LossOutput, Network, NetworkT, Objective, Output, OutputT, PlanT

# Variants of one function that torch may compile: with and without gradients, on tensors and on duals, with a fixed and
# with a variable number of samples, for training and for sampling. torch's own limit of 8 is meant to catch runaways.
NUM_VARIANTS = 32


class CompiledObjective(Generic[NetworkT, DrawsT, PlanT]):
    """An objective whose losses are one compiled graph: forward, guidance and derivative.

    The objective plans the evaluations for guidance outside the graph, on the CPU. Their number varies from step to
    step. torch compiles the graph once, for any number, and the graph does not wait for the device.

    Args:
        objective: The objective.
        backend: Backend of ``torch.compile``.
    """

    def __init__(self, objective: Objective[NetworkT, DrawsT, PlanT], backend: str = "inductor") -> None:
        self.objective = objective
        self._loss = torch.compile(objective.loss, fullgraph=True, backend=backend)

    def __call__(self, model: NetworkT, x: Tensor, y: Tensor, draws: DrawsT, *features: Sequence[Tensor]) -> LossOutput:
        """Plan a step and return its losses.

        Args:
            model: The network that is trained.
            x: Data ``(B, C, H, W)``.
            y: Labels ``(B,)``.
            draws: Random numbers of the step, on the CPU.
            features: The argument ``features`` of ``FlowMatching``.
        """
        plan = self.objective.plan(draws, x)
        for tensor in plan.variable():
            if len(tensor) > 1:  # torch compiles lengths 0 and 1 apart from the others
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        allow_variants()
        return self._loss(model, x, y, plan, *features)


class GraphedNetwork(Generic[OutputT]):
    """A network that replays CUDA graphs, without gradients: no time passes between kernels.

    The first call with arguments of new shapes records a graph. Each graph keeps its memory: use few shapes.

    Args:
        network: Network on a GPU, in evaluation mode. Its weights may change in place, but must not move.
    """

    def __init__(self, network: Network[OutputT]) -> None:
        self.network = network
        self.num_classes, self.null_label = network.num_classes, network.null_label
        self.in_channels, self.input_size = network.in_channels, network.input_size
        self.output = network.output
        self.output_field, self.takes_guidance = network.output_field, network.takes_guidance
        self.sampling_arguments = network.sampling_arguments
        self._recordings: dict[tuple[object, ...], _Recording] = {}

    @torch.no_grad()
    def __call__(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition, **arguments: str) -> OutputT:
        """Return the output of the network, in tensors that the next call does not overwrite."""
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

    def _record(self, inputs: list[Tensor | None], structure: TreeSpec, arguments: dict[str, str]) -> _Recording:
        own_inputs = [None if a is None else a.clone() for a in inputs]
        z_t, t, r, cond = tree_unflatten(own_inputs, structure)
        call = lambda: self.network(z_t, t, r, cond, **arguments)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # the first calls choose algorithms and allocate, which a recording must not do
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Casts that autocast remembers would be missing from the recording.
        torch.clear_autocast_cache()
        with torch.cuda.graph(graph):
            output = call()
        return _Recording(graph, own_inputs, output)


class _Recording(NamedTuple):
    """A CUDA graph, the inputs that it reads and the output that it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor | None]
    output: Output


def compile_blocks(network: nn.Module, backend: str = "inductor", fullgraph: bool = False) -> None:
    """Compile the transformer blocks in place. Equal blocks share their code, which is ready in seconds.

    Args:
        network: Network; its blocks are the members of its module lists.
        backend: Backend of ``torch.compile``.
        fullgraph: Whether to raise if a block does not compile into one graph.
    """
    allow_variants()
    for block in _blocks(network):
        block.compile(backend=backend, fullgraph=fullgraph)


def compile_blocks_to_shard(network: nn.Module) -> None:
    """Compile the ``forward`` of the blocks in place, not the hooks around it: hooks of a sharded block communicate.

    The network can no longer be copied.

    Args:
        network: Network; its blocks are the members of its module lists.
    """
    allow_variants()
    for block in _blocks(network):
        block.forward = torch.compile(block.forward)


def _blocks(network: nn.Module) -> list[nn.Module]:
    return [block for child in network.children() if isinstance(child, nn.ModuleList) for block in child]


def allow_variants() -> None:
    """Let torch keep as many variants of a compiled function as training needs."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, NUM_VARIANTS)
