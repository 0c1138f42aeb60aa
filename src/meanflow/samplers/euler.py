"""Euler steps: one evaluation each."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from meanflow.samplers.sampler import Field, Sampler


class FlowEuler(Sampler):
    """Explicit Euler steps along the velocity of a flow, ``z_r = z_t - (t - r) v(z_t, t)``; first order.

    Every step moves the state. Not to be confused with ``fm_euler_sampler`` of the official code, which leaves the
    state unchanged in steps without guidance.
    """

    output_field = "v"

    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        for i, (t, r) in enumerate(pairwise(self.times)):
            z = z - (t - r) * field(z, t, t, i)
        return z


class FlowMapEuler(Sampler):
    """Jumps along a flow map, ``z_r = z_t - (t - r) u(z_t, t, r)``; exact for an exact map, for any number of steps."""

    output_field = "u"

    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        for i, (t, r) in enumerate(pairwise(self.times)):
            z = z - (t - r) * field(z, t, r, i)
        return z
