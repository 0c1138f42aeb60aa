"""Learning-rate schedules, as factors of the base learning rate.

The factors have a closed form, which torch's ``LambdaLR`` applies. ``LinearLR`` and ``CosineAnnealingLR`` multiply the
previous rate instead, which gives other last digits (relative differences of 2e-13 in 1,200 steps).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from typing_extensions import override


class Ramp(ABC):
    """The factors of a warm-up of ``length`` optimizer steps."""

    @abstractmethod
    def factor(self, step: int, length: int) -> float:
        """Return the factor at an optimizer step of the warm-up, in [0, length)."""


class RampAboveZero(Ramp):
    """``1 / length, 2 / length, ..., 1``: no step of the warm-up has rate 0."""

    @override
    def factor(self, step: int, length: int) -> float:
        return (step + 1) / length


class RampFromZero(Ramp):
    """``0, 1 / length, ..., (length - 1) / length``: the first step has rate 0, as in the official iMF code."""

    @override
    def factor(self, step: int, length: int) -> float:
        return step / length


class LearningRateSchedule(ABC):
    """A linear warm-up, then the factors that the subclass defines.

    Args:
        warmup_steps: Length of the warm-up in optimizer steps.
        warmup_epochs: Its length in epochs; give one of the two.
        ramp: How the warm-up rises; ``RampAboveZero`` if ``None``.
    """

    def __init__(self, warmup_steps: int = 0, warmup_epochs: float = 0.0, ramp: Ramp | None = None) -> None:
        if warmup_steps < 0 or warmup_epochs < 0 or (warmup_steps and warmup_epochs):
            raise ValueError(
                "give warmup_steps or warmup_epochs, at least 0, not both; "
                f"got warmup_steps={warmup_steps}, warmup_epochs={warmup_epochs}"
            )
        self.warmup_steps = warmup_steps
        self.warmup_epochs = warmup_epochs
        self.ramp = ramp or RampAboveZero()

    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor at an optimizer step, counted from 0.

        Args:
            step: Number of optimizer steps already taken.
            total_steps: Optimizer steps of the whole run; -1 if it has no end.
            steps_per_epoch: Optimizer steps of an epoch.
        """
        warmup = self.warmup_length(steps_per_epoch)
        if step < warmup:
            return self.ramp.factor(step, warmup)
        return self.after_warmup(step - warmup, max(0, total_steps - warmup) if total_steps >= 0 else -1)

    def warmup_length(self, steps_per_epoch: int) -> int:
        """Return the length of the warm-up in optimizer steps."""
        return self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)

    @abstractmethod
    def after_warmup(self, step: int, total_steps: int) -> float:
        """Return the factor ``step`` steps after the warm-up, of ``total_steps`` (-1 without an end)."""


class Constant(LearningRateSchedule):
    """The base learning rate."""

    @override
    def after_warmup(self, step: int, total_steps: int) -> float:
        return 1.0


class Cosine(LearningRateSchedule):
    """Half a cosine from 1 to ``final_factor`` at the last step of the run.

    Args:
        final_factor: Factor at the end, from 0 to 1.
        warmup_steps: Length of the warm-up in optimizer steps.
        warmup_epochs: Its length in epochs; give one of the two.
        ramp: How the warm-up rises; ``RampAboveZero`` if ``None``.
    """

    def __init__(
        self,
        final_factor: float = 0.0,
        warmup_steps: int = 0,
        warmup_epochs: float = 0.0,
        ramp: Ramp | None = None,
    ) -> None:
        super().__init__(warmup_steps, warmup_epochs, ramp)
        if not 0 <= final_factor <= 1:
            raise ValueError(f"final_factor must be from 0 to 1, got {final_factor}")
        self.final_factor = final_factor

    @override
    def after_warmup(self, step: int, total_steps: int) -> float:
        if total_steps < 0:
            raise ValueError(
                "a cosine schedule needs a run of known length: set trainer.max_steps or trainer.max_epochs"
            )
        progress = min(1.0, step / max(1, total_steps))
        return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


class OfficialCosine(Cosine):
    """A cosine that ends one length of the warm-up before the run does, and then stays; for parity with official iMF.

    That code subtracts the warm-up from the length of the run and hands the rest to a schedule that counts the warm-up
    in.
    """

    @override
    def factor(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        end = max(0, total_steps - self.warmup_length(steps_per_epoch)) if total_steps >= 0 else -1
        return super().factor(step, end, steps_per_epoch)
