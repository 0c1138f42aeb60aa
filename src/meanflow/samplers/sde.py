"""Euler-Maruyama steps: a flow sampled as a diffusion."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.interpolant import Interpolant
from meanflow.samplers.diffusion import DIFFUSION_COEFFICIENTS, DiffusionCoefficient
from meanflow.samplers.interpolant import InterpolantSampler
from meanflow.samplers.sampler import Field
from meanflow.samplers.schedule import time_grid

# The time at which the last step starts. The last step adds no noise. No step needs the score at smaller times, where
# it is large.
LAST_STEP = 1e-4


class FlowSDE(InterpolantSampler):
    """Euler-Maruyama steps of the diffusion that has the marginals of a flow; weak order 1, one evaluation a step.

    ``z_r = z_t - (t - r) (v - w / 2 score) + sqrt(w (t - r)) e`` with ``w = gamma w(t)`` and the score in terms of the
    velocity, ``score = -e_hat / sigma`` with ``e_hat = (alpha v - alpha' z_t) / (alpha sigma' - alpha' sigma)`` (Ma et
    al., 2024, SiT, arXiv:2401.08740, section 2). The times are uniform from ``t_start`` to 1e-4; the last step goes
    from 1e-4 to 0 without noise. ``gamma = 0`` is Euler's method on these times. Guidance acts on the velocity; to act
    on the drift would be the same.

    Args:
        num_steps: Number of steps, at least 1.
        interpolant: The interpolant that the network was trained on, or its name: ``linear`` or ``cosine``.
        coefficient: Diffusion coefficient ``w(t)``, or its name: ``sigma`` or ``elbo``.
        gamma: Factor of the diffusion coefficient, at least 0.
        t_start: First time, before the shift, in (1e-4, 1]. The start noise stands for the state at this time.
            ``elbo`` is infinite at 1 and needs a time below 1: ``1 - 1 / num_steps`` is good. Much closer to 1, the
            first steps are unstable.
        arguments: The remaining arguments of ``Sampler``.

    Raises:
        ValueError: If an argument is out of range, or the coefficient is not finite at the first time.
    """

    output_field = "v"

    def __init__(
        self,
        num_steps: int,
        interpolant: str | Interpolant = "linear",
        coefficient: str | DiffusionCoefficient = "sigma",
        gamma: float = 1.0,
        t_start: float = 1.0,
        **arguments: Any,
    ) -> None:
        super().__init__(num_steps, interpolant, **arguments)
        if isinstance(coefficient, str):
            if coefficient not in DIFFUSION_COEFFICIENTS:
                raise ValueError(f"coefficient must be one of {sorted(DIFFUSION_COEFFICIENTS)}, got {coefficient!r}")
            coefficient = DIFFUSION_COEFFICIENTS[coefficient]()
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma must be at least 0 (no noise) and finite, got {gamma}")
        if not LAST_STEP < t_start <= 1:
            raise ValueError(f"t_start must be above {LAST_STEP} and at most 1, got {t_start}")
        self.coefficient = coefficient
        self.gamma = gamma
        self.t_start = t_start
        self.times = [*time_grid(max(1, num_steps - 1), self.shift, t_start, LAST_STEP).tolist()[:num_steps], 0.0]
        # In floating point the signal of the cosine interpolant is 6e-17 at t = 1, and an infinite number is huge.
        if gamma > 0 and not self._noise_level(self.times[0]) < 1e12 * gamma:
            raise ValueError(
                f"t_start must be below 1 for the coefficient {self._coefficient_name!r}, which is infinite at 1 "
                f"(0.98 is good), got {t_start}"
            )

    @property
    @override
    def config(self) -> dict[str, Any]:
        own = {"coefficient": self._coefficient_name, "gamma": self.gamma, "t_start": self.t_start}
        return super().config | own

    @property
    @override
    def num_noises(self) -> int:
        return self.num_steps - 1

    @property
    def _coefficient_name(self) -> str | DiffusionCoefficient:
        names = {coefficient: name for name, coefficient in DIFFUSION_COEFFICIENTS.items()}
        return names.get(type(self.coefficient), self.coefficient)

    def _noise_level(self, t: float) -> float:
        """Return ``gamma w(t)``."""
        return self.gamma * self.coefficient(self.interpolant, torch.tensor(t, dtype=torch.float64)).item()

    def _score(self, z: Tensor, v: Tensor, t: float) -> Tensor:
        """Return the gradient of the log-density of ``z_t``, given the velocity at ``z_t``."""
        time, p = torch.tensor(t, dtype=torch.float64), self.interpolant
        alpha, sigma, d_alpha, d_sigma = (f(time).item() for f in (p.alpha, p.sigma, p.d_alpha, p.d_sigma))
        e_hat = (alpha * v - d_alpha * z) / (alpha * d_sigma - d_alpha * sigma)
        return -e_hat / sigma

    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        for i, (t, r) in enumerate(pairwise(self.times)):
            v = field(z, t, t, i)
            w = self._noise_level(t) if self.gamma > 0 else 0.0
            z = z - (t - r) * (v - w / 2 * self._score(z, v, t))
            if r > 0:
                z = z + (w * (t - r)) ** 0.5 * noise[i]
        return z
