"""Gaussian data on any path, in closed form, and what a sampler that is linear in its noises makes of them.

Data ``x ~ N(mean, std^2)`` give ``z_t ~ N(alpha mean, s^2)`` with ``s^2 = alpha^2 std^2 + sigma^2``; every point keeps
its number of standard deviations ``w`` from the mean: ``z_r = alpha(r) mean + s(r) w`` and ``v = alpha' mean + s' w``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from meanflow.interpolant import Interpolant, expand_times
from meanflow.samplers import Sampler
from meanflow.types import Condition, FlowMapOutput, FlowOutput

MEAN, STD = 1.5, 0.4


class _PathGaussian:
    takes_guidance = False
    sampling_arguments: Mapping[str, str] = MappingProxyType({})

    def __init__(self, interpolant: Interpolant) -> None:
        self.path = interpolant
        self.num_classes = self.null_label = self.in_channels = self.input_size = 1

    def scale(self, t: Tensor) -> Tensor:
        return (self.path.alpha(t).square() * STD**2 + self.path.sigma(t).square()).sqrt()

    def standardize(self, z: Tensor, t: Tensor) -> Tensor:
        return (z - self.path.alpha(t) * MEAN) / self.scale(t)


class PathGaussianFlow(_PathGaussian):
    """The exact velocity."""

    output_field = "v"

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, cond: Condition) -> FlowOutput:
        t, path = expand_times(t, z), self.path
        rate = (path.alpha(t) * path.d_alpha(t) * STD**2 + path.sigma(t) * path.d_sigma(t)) / self.scale(t)
        return FlowOutput(path.d_alpha(t) * MEAN + rate * self.standardize(z, t))


class PathGaussianFlowMap(_PathGaussian):
    """The exact average velocity for r < t."""

    output_field = "u"

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, cond: Condition) -> FlowMapOutput:
        t, r = expand_times(t, z), expand_times(r, z)
        z_r = self.path.alpha(r) * MEAN + self.scale(r) * self.standardize(z, t)
        return FlowMapOutput((z - z_r) / (t - r), torch.zeros_like(t[:, 0, 0, 0]))


def distribution(sampler: Sampler, network: _PathGaussian) -> tuple[float, float]:
    """Return mean and standard deviation of the samples, exactly.

    On Gaussian data every step is linear in the state and its noise: the answer to no noise is the mean, and the
    squared answers to each noise alone add up to the variance. One sample of the batch asks for each.
    """
    num_inputs = 1 + sampler.num_noises
    inputs = torch.cat([torch.zeros(num_inputs, 1), torch.eye(num_inputs)], dim=1).double()[..., None, None, None]
    noise = inputs[1:] if sampler.num_noises else None
    x = sampler(network, inputs[0], Condition(torch.zeros(1 + num_inputs, dtype=torch.int64)), noise).flatten()
    return x[0].item(), (x[1:] - x[0]).square().sum().sqrt().item()
