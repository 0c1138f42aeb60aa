"""Distributions of the guidance scales and intervals that an iMF network is trained on.

Not to be confused with ``meanflow.objectives.guidance``, which computes guided target velocities.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class PowerLawScale:
    """``omega`` between 1 and ``1 + s_max`` with density proportional to ``omega^-beta``.

    With a uniform ``q`` in [0, 1), the inverse of the distribution function is::

        omega = exp(log1p(q expm1((1 - beta) log(1 + s_max))) / (1 - beta)),    (1 + s_max)^q for beta = 1

    (improved MeanFlow, Geng et al., 2025, arXiv:2512.02012; ``sample_cfg_scale`` of the official code).

    Args:
        beta: Exponent, any finite number; 0 is uniform, a larger exponent prefers small scales.
        s_max: Last scale minus 1, above -1 and finite; below 0 all scales are at most 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, beta: float = 1.0, s_max: float = 7.0) -> None:
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite, got {beta}")
        if not -1 < s_max < math.inf:
            raise ValueError(f"s_max must be above -1 and finite, got {s_max}")
        self.beta = beta
        self.s_max = s_max

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Draw float32 scales ``(num_samples,)``."""
        return self.transform(torch.rand(num_samples, generator=generator))

    def transform(self, uniform: Tensor) -> Tensor:
        """Map uniform numbers ``(B,)`` in [0, 1) to scales ``(B,)``."""
        log_largest = math.log1p(self.s_max)
        if self.beta == 1:
            return torch.exp(uniform * log_largest)
        exponent = 1 - self.beta
        return torch.exp(torch.log1p(uniform * math.expm1(exponent * log_largest)) / exponent)


class UniformInterval:
    """Guidance intervals with ``t_min`` uniform in [0, middle) and ``t_max`` uniform in [middle, 1).

    Args:
        middle: Time that lies in every interval, from 0 to 1.

    Raises:
        ValueError: If ``middle`` is out of range.
    """

    def __init__(self, middle: float = 0.5) -> None:
        if not 0 <= middle <= 1:
            raise ValueError(f"middle must be from 0 to 1, got {middle}")
        self.middle = middle

    def sample(self, full: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw float32 ``t_min`` and ``t_max``, each ``(B,)``.

        Args:
            full: Whether a sample has the full interval [0, 1], bool ``(B,)`` on the CPU. In iMF the samples with
                ``r = t`` have it.
            generator: CPU generator.
        """
        t_min = torch.rand(len(full), generator=generator) * self.middle
        t_max = torch.rand(len(full), generator=generator) * (1 - self.middle) + self.middle
        return self.widen(t_min, t_max, full)

    @staticmethod
    def widen(t_min: Tensor, t_max: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``t_min`` and ``t_max`` with 0 and 1 where a sample has the full interval; all ``(B,)``."""
        return t_min.masked_fill(full, 0.0), t_max.masked_fill(full, 1.0)
