"""A network whose parameters are divided among the ranks (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Give each rank its part of every parameter, in place: one group for each block, one for what remains.

    A training step calls the network several times, and how often can depend on the data of the rank, so a call must
    not communicate. Hence parameters are gathered by the first call of a step, which every rank makes, and stay until
    ``reshard``; gradients are averaged and divided once a block's last backward pass is over. Each parameter is
    gathered once and reduced once per step. What is saved is optimizer state, average and weights between steps.

    Args:
        network: Network; its blocks are the members of its module lists.
        mesh: Ranks, one-dimensional.
    """
    for child in network.children():
        for block in child if isinstance(child, nn.ModuleList) else ():
            fully_shard(block, mesh=mesh, reshard_after_forward=False)
    root = fully_shard(network, mesh=mesh, reshard_after_forward=False)
    root.set_reshard_after_backward(False)


def is_sharded(network: nn.Module) -> bool:
    """Return whether the parameters are divided among ranks."""
    return isinstance(network, FSDPModule)


def reshard(network: nn.Module) -> None:
    """Drop the gathered parameters; without effect on a network that is not sharded.

    To be called before parameters change: a network that is still gathered would go on with the old ones.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Gather all parameters for a while, so that calls inside do not communicate; all ranks must enter.

    Without effect on a network that is not sharded.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
    try:
        yield
    finally:
        reshard(network)


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, in the same memory; a tensor that is not sharded is returned as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; all ranks must call it if the tensor is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_on_cpu(tree: Any, keep: bool) -> Any:
    """Return nested containers with every sharded tensor whole, on the CPU; all ranks must call it.

    Args:
        tree: Containers of anything.
        keep: Whether this rank wants the result; otherwise empty tensors take the place of whole ones.
    """

    def collect(tensor: DTensor) -> Tensor:
        full = tensor.full_tensor()
        return full.cpu() if keep else full.new_empty(0)

    return tree_map_only(DTensor, collect, tree)


def divided_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Return a whole tensor, equal on all ranks, as the reference is: sharded in the same way, or as it is."""
    if not isinstance(reference, DTensor):
        return tensor
    # Each rank cuts its part out of its own copy; nothing is sent.
    return distribute_tensor(tensor, reference.device_mesh, reference.placements, src_data_rank=None)
