"""Heun steps: a trial Euler step, then the mean of the slopes at both ends."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from meanflow.samplers.sampler import Field, Sampler


class FlowHeun(Sampler):
    """Heun's method along the velocity of a flow; second order, two evaluations a step.

    The last step is an Euler step (Karras et al., 2022, algorithm 1). Both predictions of a step are guided if the time
    at which the step starts lies in the guidance interval.

    Not to be confused with ``fm_euler_sampler(heun=True)`` of the official code, which moves the state in guided steps
    only.
    """

    output_field = "v"

    def _predictions(self, step: int) -> int:
        return 1 if step == self.num_steps - 1 else 2

    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        for i, (t, r) in enumerate(pairwise(self.times)):
            v = field(z, t, t, i)
            z_r = z - (t - r) * v
            if self._predictions(i) == 2:
                z_r = z - (t - r) * (v + field(z_r, r, r, i)) / 2
            z = z_r
        return z
