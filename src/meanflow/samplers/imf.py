"""Jumps along a flow map that takes guidance as an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meanflow.dual import Dual
from meanflow.samplers.euler import FlowMapEuler
from meanflow.samplers.guidance import Guidance
from meanflow.types import Condition, IMFOutput, Network


class IMFEuler(FlowMapEuler):
    """``z_r = z_t - (t - r) u(z_t, t - r, omega, t_min, t_max, y)``: guidance costs no second evaluation.

    Args:
        num_steps: Number of steps, at least 1.
        shift: Time shift, above 0; 1 leaves the times uniform.
        omega: Guidance scale that the network is told, at least 1.
        t_min: Lower end of the guidance interval that the network is told. Not compared with the time of a step.
        t_max: Upper end.
    """

    def __init__(
        self, num_steps: int, shift: float = 1.0, omega: float = 1.0, t_min: float = 0.0, t_max: float = 1.0
    ) -> None:
        super().__init__(num_steps, shift)
        self.condition = Guidance(omega, t_min, t_max)

    @property
    def config(self) -> dict[str, Any]:
        """Name and arguments, from which ``samplers.build`` makes this sampler again."""
        told = {"omega": self.condition.omega, "t_min": self.condition.t_min, "t_max": self.condition.t_max}
        return super().config | told

    def __call__(self, network: Network, e: Tensor, cond: Condition, noise: Tensor | None = None) -> Tensor:
        """Sample; see ``Sampler``. The condition's guidance scale and interval are those of the sampler."""
        dtype = torch.float64 if e.dtype == torch.float64 else torch.float32
        told = (self.condition.omega, self.condition.t_min, self.condition.t_max)
        constants = (torch.full(e.shape[:1], value, dtype=dtype, device=e.device) for value in told)
        return super().__call__(_UHead(network), e, Condition(cond.y, *constants), noise)


class _UHead:
    """The network without its v head, which sampling does not need."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.num_classes, self.null_label = network.num_classes, network.null_label
        self.in_channels, self.input_size = network.in_channels, network.input_size
        self.output = IMFOutput

    def __call__(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition, **arguments: str) -> IMFOutput:
        return self.network(z_t, t, r, cond, heads="u")
