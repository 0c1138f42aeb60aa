"""Guidance scales and intervals that a network is trained on, as functions of uniform draws (iMF).

Not to be confused with ``meanflow.objectives.guidance``, the targets that they scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class PowerLawScale:
    """``omega`` in [1, 1 + s_max] with density proportional to ``omega^-beta``.

    The inverse of its distribution function at a uniform ``q``::

        omega = exp(log1p(q expm1((1 - beta) log(1 + s_max))) / (1 - beta)),    (1 + s_max)^q for beta = 1

    (improved MeanFlow, Geng et al., 2025, arXiv:2512.02012; ``sample_cfg_scale`` of the official code).

    Args:
        beta: Exponent; 0 is uniform, larger ones prefer small scales.
        s_max: Largest scale minus 1, above 0.
    """

    def __init__(self, beta: float = 1.0, s_max: float = 7.0) -> None:
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite, got {beta}")
        if not 0 < s_max < math.inf:
            raise ValueError(f"s_max must be above 0 and finite, got {s_max}")
        self.beta = beta
        self.s_max = s_max

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Draw float32 scales ``(num_samples,)``."""
        return self.transform(torch.rand(num_samples, generator=generator))

    def transform(self, uniform: Tensor) -> Tensor:
        """Map uniform draws in [0, 1) to scales."""
        log_largest = math.log1p(self.s_max)
        if self.beta == 1:
            return torch.exp(uniform * log_largest)
        exponent = 1 - self.beta
        return torch.exp(torch.log1p(uniform * math.expm1(exponent * log_largest)) / exponent)


class UniformInterval:
    """Guidance intervals with ``t_min`` uniform in [0, middle) and ``t_max`` uniform in [middle, 1).

    Args:
        middle: Where the range of ``t_min`` ends and that of ``t_max`` begins, above 0 and below 1; every interval
            holds it.
    """

    def __init__(self, middle: float = 0.5) -> None:
        if not 0 < middle < 1:
            raise ValueError(f"middle must be above 0 and below 1, got {middle}")
        self.middle = middle

    def sample(self, full: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw float32 ``t_min`` and ``t_max``, each ``(B,)``.

        Args:
            full: Which samples have the full interval [0, 1], bool ``(B,)`` on the CPU: in iMF those with ``r = t``.
            generator: CPU generator.
        """
        t_min = torch.rand(len(full), generator=generator) * self.middle
        t_max = torch.rand(len(full), generator=generator) * (1 - self.middle) + self.middle
        return self.widen(t_min, t_max, full)

    @staticmethod
    def widen(t_min: Tensor, t_max: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
        """Return the intervals with those of some samples replaced by [0, 1]; all ``(B,)``."""
        return t_min.masked_fill(full, 0.0), t_max.masked_fill(full, 1.0)
