"""Tiny networks with random weights. The official initialization closes all gates, which hides the blocks."""

from typing import Any

import torch
from torch import Tensor, nn

from meanflow.dual import Dual, primal
from meanflow.models import AlignedSiT, DMFTransformer, IMFTransformer, SiT
from meanflow.types import Condition
from tests.duals import normal

TINY: dict[str, Any] = {
    "input_size": 4,
    "patch_size": 2,
    "in_channels": 3,
    "hidden_size": 16,
    "depth": 3,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "num_classes": 5,
}
ALIGNMENT: dict[str, Any] = {"alignment_depth": 2, "alignment_dims": (6, 4), "projector_dim": 8}


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Make every parameter a float64 normal number of standard deviation 0.3."""
    generator = torch.Generator().manual_seed(seed)
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def sit(seed: int = 0, **arguments: Any) -> SiT:
    """A tiny flow network."""
    return randomize(SiT(**TINY | arguments), seed)


def aligned_sit(seed: int = 0, **arguments: Any) -> AlignedSiT:
    """A tiny flow network with two projectors."""
    return randomize(AlignedSiT(**TINY | ALIGNMENT | arguments), seed)


def dmf(seed: int = 0, **arguments: Any) -> DMFTransformer:
    """A tiny flow map network of two encoder blocks and one decoder block."""
    return randomize(DMFTransformer(**TINY | {"dmf_depth": 2} | arguments), seed)


def imf(seed: int = 0, **arguments: Any) -> IMFTransformer:
    """A tiny improved MeanFlow network of two shared blocks and one block per head."""
    return randomize(IMFTransformer(**TINY | {"aux_head_depth": 1} | arguments), seed)


def guided(cond: Condition) -> Condition:
    """The condition of ``inputs`` with scales and intervals, as ``imf`` needs it."""
    omega, t_min, t_max = ([1.0, 2.5, 8.0, 4.0], [0.0, 0.1, 0.45, 0.3], [1.0, 0.6, 0.55, 0.9])
    return Condition(cond.y, *(torch.tensor(a, dtype=torch.float64)[: len(cond.y)] for a in (omega, t_min, t_max)))


def inputs(batch_size: int = 4, channels: int = 3, size: int = 4) -> tuple[Tensor, Tensor, Tensor, Condition, Tensor]:
    """Return ``z_t, t, r, cond, v``, one sample with r = t and one with the null label of the tiny networks."""
    z_t, v = (normal(batch_size, channels, size, size, seed=seed) for seed in (10, 11))
    t = torch.tensor([0.9, 0.55, 0.3, 1.0], dtype=torch.float64)[:batch_size]
    r = torch.tensor([0.2, 0.55, 0.0, 0.7], dtype=torch.float64)[:batch_size]
    return z_t, t, r, Condition(torch.tensor([0, 4, 5, 2])[:batch_size]), v


def plain_definition(network: nn.Module) -> nn.Module:
    """A network that shares the parameters and whose plain forward torch can differentiate in forward mode."""
    plain = type(network)(**network.config | {"attention": "reference", "activation_checkpointing": False}).double()
    for name, parameter in network.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(plain.get_submodule(owner), leaf, parameter)
    return plain.train(network.training)


class Recorded:
    """A network that records its calls.

    Attributes:
        calls: ``(number of samples, whether gradients were on, whether on duals, labels, t)`` of every call so far.
        more: The condition and the further arguments of every call so far.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.null_label = network.null_label
        self.output = network.output
        self.output_field, self.takes_guidance = network.output_field, network.takes_guidance
        self.sampling_arguments = network.sampling_arguments
        self.calls: list[tuple[int, bool, bool, list[int], list[float]]] = []
        self.more: list[tuple[Condition, dict[str, Any]]] = []

    def __call__(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition, **more: Any) -> Any:
        call = (len(cond.y), torch.is_grad_enabled(), isinstance(z_t, Dual), cond.y.tolist(), primal(t).tolist())
        self.calls.append(call)
        self.more.append((cond, more))
        return self.network(z_t, t, r, cond, **more)
