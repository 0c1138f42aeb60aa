"""The cases of the benchmarks: networks of official sizes under the official settings of each method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meanflow.interpolant import LinearPath
from meanflow.models import DMFTransformer, IMFTransformer, NetworkModule, SiT
from meanflow.models.sizes import IMF_SIZES
from meanflow.objectives import DecoupledMeanFlow, FlowMatching, ImprovedMeanFlow, LeadingLabelDrop
from meanflow.objectives.guidance import Distillation, Guidance, ModelGuidance, NoGuidance
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.times import LogitNormal, OrderedPair, PartlyEqualPair
from meanflow.objectives.weighting import AdaptiveWeight, AllPairsLogVariance
from meanflow.types import Condition, Objective, Output

METHODS = ("dmf_mg", "imf", "dmf_none", "dmf_distill", "flow")


@dataclass(frozen=True)
class Case:
    """One method on one network.

    Attributes:
        method: One of ``METHODS``.
        size: Official size of the network, such as ``"XL/2"``.
        input_size: Height and width of the latents: 32 for images of 256 pixels, 64 for 512.
        batch_sizes: Batch sizes to try, in this order, until one fits the device.
    """

    method: str
    size: str
    input_size: int
    batch_sizes: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name in tables, ``dmf_mg DMF-XL/2 256``."""
        family = {"flow": "SiT", "imf": "iMF"}.get(self.method, "DMF")
        return f"{self.method} {family}-{self.size} {8 * self.input_size}"

    def network(self, attention: str = "sdpa") -> NetworkModule:
        """Build the network."""
        arguments: dict[str, Any] = {"input_size": self.input_size, "attention": attention}
        if self.method == "flow":
            return SiT.from_size(self.size, **arguments)
        if self.method == "imf":
            return IMFTransformer.from_size(self.size, **arguments)
        # The official models have two thirds of the blocks in the encoder, 20 of 28; those of 512 pixels norm q and k.
        depth = {"XL/2": 20}.get(self.size, 8)
        return DMFTransformer.from_size(self.size, dmf_depth=depth, qk_norm=self.input_size == 64, **arguments)

    def objective(self, teacher: SiT | None) -> Objective:
        """Build the objective with official settings; the teacher is for distillation."""
        if self.method == "flow":
            return FlowMatching(LinearPath(), LogitNormal())
        if self.method == "imf":
            times = LogitNormal(-0.4, 1.0)
            return ImprovedMeanFlow(
                PartlyEqualPair(times, times, 0.5),
                PowerLawScale(),
                UniformInterval(),
                LeadingLabelDrop(0.1),
                AdaptiveWeight(),
            )
        guidance: Guidance = NoGuidance()
        if self.method == "dmf_mg":
            guidance = ModelGuidance(0.6, (0.0, 0.7 if self.input_size == 32 else 0.8))
        if self.method == "dmf_distill":
            assert teacher is not None
            guidance = Distillation(teacher, 1.5)
        return DecoupledMeanFlow(
            LinearPath(),
            LogitNormal(),
            OrderedPair(LogitNormal(0.4), LogitNormal(-1.2)),
            guidance,
            AllPairsLogVariance(),
        )

    @property
    def official_forwards(self) -> float | None:
        """Official FLOPs in units of one forward, where the literal step in torch takes more.

        Torch's derivative multiplies by zeros where a layer's weight has no tangent. The official iMF is written in
        JAX, whose derivative costs as much as the value. In blocks of B/2: 36 of guidance, 24 of the trunk and the u
        branch with tangents, 8 of the v branch, and 40 of the backward pass; a forward has 12.
        """
        if self.method != "imf":
            return None
        depth, branch = IMF_SIZES[self.size]["depth"], 8
        blocks = depth + branch  # trunk and both branches
        return (3 * depth + 2 * depth + branch + 2 * blocks) / depth

    def teacher(self) -> SiT | None:
        """Build the frozen flow network of a distillation."""
        if self.method != "dmf_distill":
            return None
        return SiT.from_size(self.size, input_size=self.input_size).requires_grad_(False)

    def forward(self, network: NetworkModule, x: Tensor) -> Output:
        """Evaluate the network once, the unit of operations. For iMF: the shared blocks and one head."""
        t = x.new_zeros(len(x))
        y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        if self.method == "imf":
            return network(x, t, t, Condition(y, t + 1, t, t + 1), heads="v")
        return network(x, t, t, Condition(y))


CPU_CASES = (
    Case("dmf_mg", "S/2", 32, (4,)),
    Case("imf", "B/2", 32, (4,)),
    Case("dmf_none", "S/2", 32, (4,)),
    Case("dmf_distill", "S/2", 32, (4,)),
    Case("flow", "S/2", 32, (4,)),
)
GPU_CASES = (
    Case("dmf_mg", "XL/2", 32, (32, 16, 8)),
    Case("imf", "XL/2", 32, (32, 16, 8)),
    Case("dmf_mg", "XL/2", 64, (8, 4, 2, 1)),
    Case("dmf_mg", "S/2", 32, (128, 64)),
    Case("dmf_none", "XL/2", 32, (32, 16, 8)),
    Case("dmf_distill", "XL/2", 32, (32, 16, 8)),
    Case("flow", "XL/2", 32, (64, 32)),
)


def randomize(network: nn.Module) -> None:
    """Fill all weights with small normal numbers, also weights that start at zero, because training changes them."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02)


def share_parameters(network: nn.Module, other: nn.Module) -> None:
    """Give a second network the parameters of a first."""
    for name, parameter in network.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(other.get_submodule(owner), leaf, parameter)
