"""Classifier-free guidance while sampling (Ho and Salimans, 2022, arXiv:2207.12598).

Not to be confused with the guided targets of training: a network that was trained on those is sampled without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow.types import Condition


@dataclass(frozen=True)
class Guidance:
    """Extrapolation from the prediction without a class through the one with it, inside an interval of time.

    Attributes:
        omega: Guidance scale, at least 1; 1 is no guidance.
        t_min: Lower end of the interval (closed), in [0, t_max].
        t_max: Upper end of the interval (closed), in [t_min, 1].
    """

    omega: float = 1.0
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.omega < float("inf"):
            raise ValueError(f"omega must be at least 1 (no guidance) and finite, got {self.omega}")
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(
                f"t_min and t_max must satisfy 0 <= t_min <= t_max <= 1, got t_min={self.t_min}, t_max={self.t_max}"
            )

    def applies_at(self, t: float) -> bool:
        """Tell whether a step that starts at time ``t`` is guided."""
        return self.omega > 1 and self.t_min <= t <= self.t_max

    def predict(
        self, predict: Callable[[Tensor, Condition], Tensor], z: Tensor, cond: Condition, null_label: int
    ) -> Tensor:
        """Return ``p_null + omega (p_cond - p_null)`` from one call of ``predict`` on the batch [cond; null].

        Args:
            predict: Prediction for states and conditions of twice the batch.
            z: State ``(B, C, H, W)``.
            cond: Condition of the samples.
            null_label: The label that stands for "no class".
        """
        p_cond, p_null = predict(torch.cat([z, z]), _with_null(cond, null_label)).double().chunk(2)
        return p_null + self.omega * (p_cond - p_null)


def _with_null(cond: Condition, null_label: int) -> Condition:
    """Stack a condition upon itself with the null label."""
    rest = (None if a is None else torch.cat([a, a]) for a in cond[1:])
    return Condition(torch.cat([cond.y, torch.full_like(cond.y, null_label)]), *rest)
