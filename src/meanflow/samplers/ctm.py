"""Jumps beyond the next time and part of the way back: between Euler steps and restarts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.samplers.path import PathSampler
from meanflow.samplers.sampler import Field, Sampler


class FlowMapCTM(Sampler):
    """The gamma sampler of consistency trajectory models (Kim et al., 2024, arXiv:2310.02279), as official DMF has it.

    From ``t``, jump to ``s = sqrt(1 - gamma^2) r``, then return to ``r``: ``z_r = a z_s + (1 - a) e`` with
    ``a = (1 - r) / (1 - s)``. The last jump goes to 0 and adds nothing.

    ``gamma = 0`` is ``FlowMapEuler`` and ``gamma = 1`` is ``FlowMapRestart`` on the linear path. Between the two,
    ``z_r`` has less noise than its time says: the weight ``1 - a`` would be right if it met the noise in ``z_s`` and
    not fresh noise. Other paths are not taken into account. Not to be confused with ``FlowMapCTMVP``, which adds as
    much noise as is missing.

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
            z = z - (t - s) * field(z, t, s, self._is_guided(i))
            if r > 0:
                kept, fresh = self._return_weights(s, r)
                z = kept * z + fresh * noise[i]
        return z


class FlowMapCTMVP(PathSampler, FlowMapCTM):
    """``FlowMapCTM`` with the noise that the path asks for, so that an exact map keeps the distribution at every time.

    ``z_r = a z_s + b e`` with ``a = alpha(r) / alpha(s)`` and ``b = sqrt(sigma(r)^2 - a^2 sigma(s)^2)``: signal and
    variance of the noise are those of the path at ``r``. ``gamma = 0`` is ``FlowMapEuler`` and ``gamma = 1`` is
    ``FlowMapRestart``, on every path.

    Args:
        num_steps: Number of jumps, at least 1.
        interpolant: The path that the network was trained on: ``linear`` or ``cosine``, or the path itself.
        arguments: ``gamma`` and the remaining arguments of ``FlowMapCTM``.
    """

    @override
    def _return_weights(self, s: float, r: float) -> tuple[float, float]:
        times = torch.tensor([s, r], dtype=torch.float64)
        (alpha_s, alpha_r), (sigma_s, sigma_r) = self.interpolant.alpha(times), self.interpolant.sigma(times)
        kept = alpha_r / alpha_s
        # Noise over signal grows along a path, so below the root stands no negative number but for rounding.
        fresh = (sigma_r.square() - (kept * sigma_s).square()).clamp(min=0).sqrt()
        return kept.item(), fresh.item()
