"""Diffusion coefficients ``w(t)``: how much noise the stochastic sampler of a flow adds.

For every ``w >= 0``, ``dz = (v - w / 2 score) dt + sqrt(w) dW``, run from t = 1 to t = 0, has the marginals of the flow
``dz = v dt`` (Ma et al., 2024, SiT, arXiv:2401.08740, section 2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override

from meanflow.interpolant import Interpolant


class DiffusionCoefficient(ABC):
    """A diffusion coefficient, for any interpolant."""

    @abstractmethod
    def __call__(self, interpolant: Interpolant, t: Tensor) -> Tensor:
        """Return ``w(t)``, at least 0 and possibly infinite at t = 1."""


class SigmaDiffusion(DiffusionCoefficient):
    """``w = 2 sigma``: finite at all times, and 0 at the data."""

    @override
    def __call__(self, interpolant: Interpolant, t: Tensor) -> Tensor:
        return 2 * interpolant.sigma(t)


class ELBODiffusion(DiffusionCoefficient):
    """``w = 2 (sigma sigma' - sigma^2 alpha' / alpha)``: the noise of the forward process with the same marginals.

    This choice tightens the bound on the likelihood. It is ``2 t / (1 - t)`` for the linear interpolant and
    ``pi tan(pi t / 2)`` for the cosine interpolant. It is infinite at t = 1, where ``alpha`` is 0.
    """

    @override
    def __call__(self, interpolant: Interpolant, t: Tensor) -> Tensor:
        alpha, sigma = interpolant.alpha(t), interpolant.sigma(t)
        return 2 * sigma * (interpolant.d_sigma(t) - sigma * interpolant.d_alpha(t) / alpha)


DIFFUSION_COEFFICIENTS: dict[str, type[DiffusionCoefficient]] = {"sigma": SigmaDiffusion, "elbo": ELBODiffusion}
