"""Jumps beyond the next time and part of the way back: a family of samplers between Euler steps and restarts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.samplers.interpolant import InterpolantSampler
from meanflow.samplers.sampler import Field, Sampler


class FlowMapCTM(Sampler):
    """The gamma sampler of consistency trajectory models (Kim et al., 2024, arXiv:2310.02279), as official DMF has it.

    From ``t``, jump to ``s = sqrt(1 - gamma^2) r``, then return to ``r``: ``z_r = a z_s + (1 - a) e`` with
    ``a = (1 - r) / (1 - s)``. The last jump goes to 0 and adds no noise.

    ``gamma = 0`` is ``FlowMapEuler``. On the linear interpolant, ``gamma = 1`` is ``FlowMapRestart``. For other values,
    ``z_r`` has less noise than a state at time ``r`` should have: the weight ``1 - a`` would be right if the added
    noise were the noise in ``z_s``, but the added noise is fresh. The formula is that of the linear interpolant,
    whatever interpolant the network was trained on. Not to be confused with ``FlowMapCTMVP``, which adds the right
    amount of noise.

    Args:
        num_steps: Number of jumps, at least 1.
        gamma: Share of fresh noise, from 0 to 1.
        arguments: The remaining arguments of ``Sampler``.
    """

    output_field = "u"

    def __init__(self, num_steps: int, gamma: float = 0.9, **arguments: Any) -> None:
        super().__init__(num_steps, **arguments)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be from 0 (no fresh noise) to 1 (restarts), got {gamma}")
        self.gamma = gamma

    @property
    @override
    def config(self) -> dict[str, Any]:
        return super().config | {"gamma": self.gamma}

    @property
    @override
    def num_noises(self) -> int:
        return self.num_steps - 1

    def _return_weights(self, s: float, r: float) -> tuple[float, float]:
        """Weights of the state at ``s`` and of fresh noise in the state at ``r``, for ``0 <= s <= r < 1``."""
        weight = (1 - r) / (1 - s)
        return weight, 1 - weight

    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        for i, (t, r) in enumerate(pairwise(self.times)):
            s = math.sqrt(1 - self.gamma**2) * r
            z = z - (t - s) * field(z, t, s, i)
            if r > 0:
                kept, fresh = self._return_weights(s, r)
                z = kept * z + fresh * noise[i]
        return z


class FlowMapCTMVP(InterpolantSampler, FlowMapCTM):
    """``FlowMapCTM`` with the right amount of noise: an exact flow map keeps the distribution at every time.

    ``z_r = a z_s + b e`` with ``a = alpha(r) / alpha(s)`` and ``b = sqrt(sigma(r)^2 - a^2 sigma(s)^2)``. Signal and
    variance of the noise are then those of the interpolant at ``r``. ``gamma = 0`` is ``FlowMapEuler`` and
    ``gamma = 1`` is ``FlowMapRestart``, for every interpolant.

    Args:
        num_steps: Number of jumps, at least 1.
        interpolant: The interpolant that the network was trained on, or its name: ``linear`` or ``cosine``.
        arguments: ``gamma`` and the remaining arguments of ``FlowMapCTM``.
    """

    @override
    def _return_weights(self, s: float, r: float) -> tuple[float, float]:
        times = torch.tensor([s, r], dtype=torch.float64)
        (alpha_s, alpha_r), (sigma_s, sigma_r) = self.interpolant.alpha(times), self.interpolant.sigma(times)
        kept = alpha_r / alpha_s
        # Noise over signal grows with time. Below the root, a number is negative by rounding only.
        fresh = (sigma_r.square() - (kept * sigma_s).square()).clamp(min=0).sqrt()
        return kept.item(), fresh.item()
