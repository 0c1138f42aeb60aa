"""Distributions of training times."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override


class TimeDistribution(ABC):
    """A time that is a function of a normal variable with mean ``P_mean`` and standard deviation ``P_std``.

    Args:
        P_mean: Mean of the normal variable.
        P_std: Standard deviation of the normal variable, at least 0.

    Raises:
        ValueError: If ``P_std`` is below 0.
    """

    def __init__(self, P_mean: float = 0.0, P_std: float = 1.0) -> None:
        if P_std < 0:
            raise ValueError(f"P_std must be at least 0, got {P_std}")
        self.P_mean = P_mean
        self.P_std = P_std

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Draw float32 times ``(num_samples,)``."""
        return self.transform(torch.randn(num_samples, generator=generator) * self.P_std + self.P_mean)

    @abstractmethod
    def transform(self, normal: Tensor) -> Tensor:
        """Map normal numbers ``(B,)`` to times ``(B,)``."""


class LogitNormal(TimeDistribution):
    """``t = 1 / (1 + exp(-n))``, for the linear path. ``n`` is the normal variable."""

    @override
    def transform(self, normal: Tensor) -> Tensor:
        return torch.sigmoid(normal)


class ArctanNormal(TimeDistribution):
    """``t = 2 / pi atan(exp(n))``, for the cosine path: the log signal-to-noise ratio at ``t`` is ``-2 n``."""

    @override
    def transform(self, normal: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(normal))


class OfficialArctanNormal(TimeDistribution):
    """``t = 2 / pi atan(n)``, for comparison with the official DMF code. Times are negative for ``n < 0``."""

    @override
    def transform(self, normal: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(normal)


class OrderedPair:
    """Two times in order: ``t`` is the larger and ``r`` the smaller of one draw from each distribution.

    Args:
        first: Distribution of the first time; in DMF the one with later times.
        second: Distribution of the second time.
    """

    def __init__(self, first: TimeDistribution, second: TimeDistribution) -> None:
        self.first = first
        self.second = second

    def sample(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw float32 ``t`` and ``r``, each ``(num_samples,)``, with ``r <= t``."""
        return self.order(self.first.sample(num_samples, generator), self.second.sample(num_samples, generator))

    def order(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``t`` and ``r`` for one draw from each distribution; all ``(B,)``."""
        return torch.maximum(a, b), torch.minimum(a, b)


class PartlyEqualPair(OrderedPair):
    """An ordered pair with ``r = t`` for the first ``int(B prob_r_equals_t)`` samples of a batch (iMF).

    Samples with ``r = t`` cost less than the others. Their number is the same at every step, as in the official code.
    The order of a batch is random, which makes them a random choice from the data.

    Args:
        first: Distribution of the first time.
        second: Distribution of the second time.
        prob_r_equals_t: Share of the batch, from 0 to 1.

    Raises:
        ValueError: If ``prob_r_equals_t`` is out of range.
    """

    def __init__(self, first: TimeDistribution, second: TimeDistribution, prob_r_equals_t: float = 0.5) -> None:
        super().__init__(first, second)
        if not 0 <= prob_r_equals_t <= 1:
            raise ValueError(f"prob_r_equals_t must be from 0 to 1, got {prob_r_equals_t}")
        self.prob_r_equals_t = prob_r_equals_t

    def r_equals_t(self, num_samples: int) -> Tensor:
        """Return whether a sample of a batch has ``r = t``, bool ``(num_samples,)`` on the CPU."""
        return torch.arange(num_samples, device="cpu") < int(num_samples * self.prob_r_equals_t)

    @override
    def order(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        t, r = super().order(a, b)
        return t, torch.where(self.r_equals_t(len(t)).to(t.device), t, r)
