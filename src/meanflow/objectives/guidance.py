"""Guided target velocities for training.

Which network evaluations guidance needs follows from the drawn times and dropped labels, which are on the CPU: ``plan``
makes index tensors there, before the step. With them ``targets`` is a function of tensors alone, which neither waits
for the device nor branches on data, so that a step compiles into one graph. The number of evaluations is rounded up to
a multiple of an eighth of the batch: few shapes, at a cost of a sixteenth of a batch on average.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.dual import primal
from meanflow.types import Condition, FlowOutput

# Numbers of evaluations are multiples of the batch size over this.
BUCKETS_PER_BATCH = 8


class Query(NamedTuple):
    """States whose target velocity is asked for.

    Attributes:
        z_t: States ``(B, C, H, W)``.
        t: Their times ``(B,)``.
        v: Their sample velocities ``d z_t / d t``, the targets without guidance.
        y: Labels ``(B,)``, null where dropped.
        v_cond: The trained network's conditional velocities that are there already, ``(num_known, C, H, W)``.
    """

    z_t: Tensor
    t: Tensor
    v: Tensor
    y: Tensor
    v_cond: Tensor


class Evaluations(NamedTuple):
    """Which samples of a batch a network evaluates, and where each sample finds its answers.

    Attributes:
        samples: What to evaluate, int64 ``(num_evaluations,)``.
        null: Whether with the null label in place of their own, bool ``(num_evaluations,)``.
        cond: For each sample, where its conditional velocity is among [known ones, answers], int64 ``(B,)``.
        uncond: For each sample, where its unconditional velocity is, likewise; any place for samples without.
        guided: Which samples guidance changes, bool ``(B,)``.
    """

    samples: Tensor
    null: Tensor
    cond: Tensor
    uncond: Tensor
    guided: Tensor

    def to(self, device: torch.device) -> Evaluations:
        """Return the same on a device; the host does not wait for it."""
        return Evaluations(*(tensor.to(device, non_blocking=True) for tensor in self))


def plan_evaluations(with_label: Tensor, guided: Tensor, known: Tensor, batch_size: int) -> Evaluations:
    """List the evaluations of a batch, all on the CPU.

    Args:
        with_label: Which samples to evaluate with their own label, bool ``(B,)``.
        guided: Which samples to evaluate with the null label, bool ``(B,)``.
        known: Samples whose conditional velocity will be there without evaluation, int64 ``(num_known,)``.
        batch_size: Of the data; the number of evaluations is rounded up to a multiple of an eighth of it.
    """
    cond_index, uncond_index = (mask.nonzero().squeeze(1) for mask in (with_label, guided))
    index = torch.cat([cond_index, uncond_index])
    padding = -len(index) % max(1, batch_size // BUCKETS_PER_BATCH)
    null = torch.arange(len(index) + padding) >= len(cond_index)
    cond, uncond = torch.zeros(2, len(guided), dtype=torch.int64)
    cond[torch.cat([known, cond_index])] = torch.arange(len(known) + len(cond_index))
    uncond[uncond_index] = len(known) + len(cond_index) + torch.arange(len(uncond_index))
    return Evaluations(torch.nn.functional.pad(index, (0, padding)), null, cond, uncond, guided)


class Guidance(ABC):
    """Turns sample velocities into target velocities."""

    @abstractmethod
    def guided(self, t: Tensor, dropped: Tensor) -> Tensor:
        """Return which samples the guidance changes, bool ``(B,)``, for their times and dropped labels ``(B,)``."""

    @abstractmethod
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        """Return the network evaluations that ``targets`` will need, on the CPU.

        Args:
            t: Times ``(B,)``, on the CPU.
            dropped: Which labels were dropped, bool ``(B,)``, on the CPU.
            num_known: Number of leading samples whose conditional velocity the query will bring.
            batch_size: Of the data, if the query stacks several of them; ``B`` by default.
        """

    @abstractmethod
    def targets(self, model: Any, query: Query, plan: Evaluations) -> Tensor:
        """Return the detached targets ``v_g (B, C, H, W)``; all network evaluations are one batch."""


class NoGuidance(Guidance):
    """``v_g = v``."""

    @override
    def guided(self, t: Tensor, dropped: Tensor) -> Tensor:
        return torch.zeros_like(dropped)

    @override
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        nobody = self.guided(t, dropped)
        return plan_evaluations(nobody, nobody, torch.arange(num_known), batch_size or len(t))

    @override
    def targets(self, model: Any, query: Query, plan: Evaluations) -> Tensor:
        return query.v


class IntervalGuidance(Guidance):
    """Guidance of scale ``omega`` where ``t`` lies in the closed interval ``[t_min, t_max]``.

    Samples with a dropped label are never guided.

    Args:
        omega: Guidance scale.
        interval: ``(t_min, t_max)``; it may reach beyond [0, 1].

    Raises:
        ValueError: If ``t_min`` is above ``t_max``.
    """

    def __init__(self, omega: float, interval: Sequence[float] = (0.0, 1.0)) -> None:
        if len(interval) != 2 or not interval[0] <= interval[1]:
            raise ValueError(f"guidance.interval must be [t_min, t_max] with t_min <= t_max, got {list(interval)}")
        self.omega = omega
        self.interval = tuple(interval)

    @override
    def guided(self, t: Tensor, dropped: Tensor) -> Tensor:
        t_min, t_max = self.interval
        return (t >= t_min) & (t <= t_max) & ~dropped


class ModelGuidance(IntervalGuidance):
    """``v_g = v + omega (v_cond - v_uncond)`` with the trained network's own velocities at r = t.

    Model guidance (Tang et al., 2025), as in Decoupled MeanFlow. Only guided samples cost network evaluations, and
    those whose ``v_cond`` is known cost the unconditional one alone.
    """

    @override
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        guided = self.guided(t, dropped)
        with_label = guided & (torch.arange(len(t)) >= num_known)
        return plan_evaluations(with_label, guided, torch.arange(num_known), batch_size or len(t))

    @override
    @torch.no_grad()
    def targets(self, model: Any, query: Query, plan: Evaluations) -> Tensor:
        if not len(plan.samples):
            return query.v
        v_cond, v_uncond = evaluate(
            lambda z_t, t, y: primal(model(z_t, t, t, Condition(y)).u), query, plan, model.null_label
        )
        return torch.where(expand_mask(plan.guided), query.v + self.omega * (v_cond - v_uncond), query.v)


class Distillation(IntervalGuidance):
    """Classifier-free guided velocity of a frozen flow network.

    ``v_g = v_uncond + omega (v_cond - v_uncond)`` inside the interval and ``v_cond`` outside, both of the teacher.
    For a dropped label both are equal, so the unconditional evaluation is left out.

    Args:
        teacher: Flow network, called ``(z_t, t, r, cond)``; it is evaluated without gradients.
        omega: Guidance scale.
        interval: ``(t_min, t_max)``.
    """

    def __init__(self, teacher: Any, omega: float, interval: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__(omega, interval)
        self.teacher = teacher

    @override
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        # Conditional velocities that are known are those of the trained network; here the teacher's are needed.
        return plan_evaluations(
            torch.ones_like(dropped), self.guided(t, dropped), torch.arange(0), batch_size or len(t)
        )

    @override
    @torch.no_grad()
    def targets(self, model: Any, query: Query, plan: Evaluations) -> Tensor:
        query = query._replace(v_cond=query.v_cond[:0])
        v_cond, v_uncond = evaluate(self._velocity, query, plan, self.teacher.null_label)
        guided = v_cond + (self.omega - 1) * (v_cond - v_uncond)
        return torch.where(expand_mask(plan.guided), guided, v_cond).to(query.v.dtype)

    def _velocity(self, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        output = self.teacher(z_t, t, t, Condition(y))
        if not isinstance(output, FlowOutput):
            raise ValueError(f"the teacher must be a flow network, got one that returns {type(output).__name__}")
        return primal(output.v)


def evaluate(velocity: Any, query: Query, plan: Evaluations, null_label: int) -> tuple[Tensor, Tensor]:
    """Return conditional and unconditional velocities ``(B, C, H, W)``, from one call ``velocity(z_t, t, y)``.

    They are float32 or better. Those that the plan does not list are some other sample's.
    """
    y = torch.where(plan.null, null_label, query.y[plan.samples])
    answers = velocity(query.z_t[plan.samples], query.t[plan.samples], y)
    known = torch.cat([query.v_cond.to(query.v.dtype), answers.to(query.v.dtype)])
    return known[plan.cond], known[plan.uncond]


def expand_mask(mask: Tensor) -> Tensor:
    """Give a mask ``(B,)`` the shape ``(B, 1, 1, 1)``."""
    return mask[:, None, None, None]
