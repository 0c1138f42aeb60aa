"""Restarts: jump to the data, add fresh noise, jump to the data again."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.samplers.interpolant import InterpolantSampler
from meanflow.samplers.sampler import Field


class FlowMapRestart(InterpolantSampler):
    """Jumps of a flow map from t to 0. After each jump but the last, fresh noise leads to the next time.

    ``x = z_t - t u(z_t, t, 0)``, then ``z_r = alpha(r) x + sigma(r) e`` (multistep sampling of consistency models, Song
    et al., 2023, algorithm 1).

    Args:
        num_steps: Number of jumps, at least 1.
        interpolant: The interpolant that the network was trained on, or its name: ``linear`` or ``cosine``.
        arguments: The remaining arguments of ``Sampler``.
    """

    output_field = "u"

    @property
    @override
    def num_noises(self) -> int:
        return self.num_steps - 1

    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        x = z
        for i, t in enumerate(self.times[:-1]):
            if i > 0:
                z = self.interpolant.state(x, noise[i - 1], torch.full_like(z[:, 0, 0, 0], t))
            x = z - t * field(z, t, 0.0, i)
        return x
