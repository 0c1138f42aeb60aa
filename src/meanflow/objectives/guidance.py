"""Guided target velocities for training.

The drawn times and dropped labels decide which network evaluations guidance needs. Both are on the CPU. ``plan`` turns
them into index tensors before the step. ``targets`` then is a function of tensors alone: it does not wait for the
device and does not branch on data, which lets a step compile into one graph. ``plan`` rounds the number of evaluations
up to a multiple of an eighth of the batch. This gives few shapes, at a cost of a sixteenth of a batch on average.

Not to be confused with ``meanflow.samplers.guidance``, the guidance of samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.dual import primal
from meanflow.types import Condition, FlowMapOutput, FlowOutput, Network

# The number of evaluations is a multiple of the batch size divided by this number.
BUCKETS_PER_BATCH = 8


class Query(NamedTuple):
    """States for which guidance computes target velocities.

    Attributes:
        z_t: States ``(B, C, H, W)``.
        t: Times of the states ``(B,)``.
        v: Velocities of the samples ``d z_t / d t``, ``(B, C, H, W)``. They are the targets without guidance.
        y: Labels ``(B,)``; the null label where the label was dropped.
        v_cond: Conditional velocities of the first samples ``(num_known, C, H, W)``, if the caller has evaluated the
            trained network there.
    """

    z_t: Tensor
    t: Tensor
    v: Tensor
    y: Tensor
    v_cond: Tensor


class Evaluations(NamedTuple):
    """The network evaluations that guidance needs, and where each sample finds its velocities.

    The velocities are stacked: first the known conditional ones, then the results of the evaluations.

    Attributes:
        samples: Index of the sample of each evaluation, int64 ``(num_evaluations,)``.
        null: Whether an evaluation takes the null label instead of the label of the sample, bool
            ``(num_evaluations,)``.
        cond: Place of the conditional velocity of each sample, int64 ``(B,)``; 0 for samples without one.
        uncond: Place of the unconditional velocity of each sample, int64 ``(B,)``; 0 for samples without one.
        guided: Whether guidance changes the target of a sample, bool ``(B,)``.
    """

    samples: Tensor
    null: Tensor
    cond: Tensor
    uncond: Tensor
    guided: Tensor


def plan_evaluations(with_label: Tensor, guided: Tensor, known: Tensor, batch_size: int) -> Evaluations:
    """List the evaluations of a batch. All tensors are on the CPU.

    Args:
        with_label: Whether to evaluate a sample with its own label, bool ``(B,)``.
        guided: Whether to evaluate a sample with the null label, bool ``(B,)``.
        known: Indices of the samples whose conditional velocity is known without evaluation, int64 ``(num_known,)``.
        batch_size: Number of samples of the data. The number of evaluations is a multiple of an eighth of it.
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
    """Turns velocities of samples into target velocities."""

    @abstractmethod
    def guided(self, t: Tensor, dropped: Tensor) -> Tensor:
        """Return whether guidance changes the target of a sample, bool ``(B,)``.

        Args:
            t: Times ``(B,)``.
            dropped: Whether the label of a sample is dropped, bool ``(B,)``.
        """

    @abstractmethod
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        """Return the network evaluations that ``targets`` needs, on the CPU.

        Args:
            t: Times ``(B,)``, on the CPU.
            dropped: Whether the label of a sample is dropped, bool ``(B,)``, on the CPU.
            num_known: Number of samples, from the first, whose conditional velocity the query has.
            batch_size: Number of samples of the data, if the query stacks several batches; ``B`` by default.
        """

    @abstractmethod
    def targets(self, model: Network[FlowMapOutput], query: Query, plan: Evaluations) -> Tensor:
        """Return the targets ``v_g (B, C, H, W)``, without gradients. All network evaluations are one batch.

        Args:
            model: The network that is trained.
            query: States, times, velocities and labels.
            plan: Result of ``plan`` for the query, on the device.
        """


class NoGuidance(Guidance):
    """The targets are the velocities of the samples: ``v_g = v``."""

    @override
    def guided(self, t: Tensor, dropped: Tensor) -> Tensor:
        return torch.zeros_like(dropped)

    @override
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        nobody = self.guided(t, dropped)
        return plan_evaluations(nobody, nobody, torch.arange(num_known), batch_size or len(t))

    @override
    def targets(self, model: Network[FlowMapOutput], query: Query, plan: Evaluations) -> Tensor:
        return query.v


class IntervalGuidance(Guidance):
    """Guidance of scale ``omega`` where ``t`` lies in the closed interval ``[t_min, t_max]``.

    Guidance does not change samples with a dropped label.

    Args:
        omega: Guidance scale, any finite number.
        interval: ``[t_min, t_max]``. It may reach beyond [0, 1].

    Raises:
        ValueError: If ``omega`` is not finite, or ``interval`` is not two numbers in order.
    """

    def __init__(self, omega: float, interval: Sequence[float] = (0.0, 1.0)) -> None:
        if not math.isfinite(omega):
            raise ValueError(f"guidance.omega must be finite, got {omega}")
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

    Model guidance (Tang et al., 2025), as in Decoupled MeanFlow. A guided sample costs two network evaluations, one if
    its ``v_cond`` is known. Other samples cost none.
    """

    @override
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        guided = self.guided(t, dropped)
        with_label = guided & (torch.arange(len(t)) >= num_known)
        return plan_evaluations(with_label, guided, torch.arange(num_known), batch_size or len(t))

    @override
    @torch.no_grad()
    def targets(self, model: Network[FlowMapOutput], query: Query, plan: Evaluations) -> Tensor:
        if not len(plan.samples):
            return query.v
        v_cond, v_uncond = evaluate(
            lambda z_t, t, y: primal(model(z_t, t, t, Condition(y)).u), query, plan, model.null_label
        )
        return torch.where(expand_mask(plan.guided), query.v + self.omega * (v_cond - v_uncond), query.v)


class Distillation(IntervalGuidance):
    """Classifier-free guided velocity of a frozen flow network.

    ``v_g = v_uncond + omega (v_cond - v_uncond)`` inside the interval and ``v_g = v_cond`` outside, with the velocities
    of the teacher. A sample outside the interval, or with a dropped label, costs one evaluation of the teacher.

    Args:
        teacher: Flow network. It is evaluated without gradients.
        omega: Guidance scale, any finite number.
        interval: ``[t_min, t_max]``. It may reach beyond [0, 1].

    Raises:
        ValueError: If the teacher is not a flow network, ``omega`` is not finite, or ``interval`` is not two numbers in
            order.
    """

    def __init__(self, teacher: Network[FlowOutput], omega: float, interval: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__(omega, interval)
        if teacher.output is not FlowOutput:
            raise ValueError(f"guidance.teacher must be a flow network, got one that returns {teacher.output.__name__}")
        self.teacher = teacher

    @override
    def plan(self, t: Tensor, dropped: Tensor, num_known: int = 0, batch_size: int | None = None) -> Evaluations:
        # The known conditional velocities are those of the trained network. They are of no use here.
        return plan_evaluations(
            torch.ones_like(dropped), self.guided(t, dropped), torch.arange(0), batch_size or len(t)
        )

    @override
    @torch.no_grad()
    def targets(self, model: Network[FlowMapOutput], query: Query, plan: Evaluations) -> Tensor:
        query = query._replace(v_cond=query.v_cond[:0])
        v_cond, v_uncond = evaluate(self._velocity, query, plan, self.teacher.null_label)
        guided = v_cond + (self.omega - 1) * (v_cond - v_uncond)
        return torch.where(expand_mask(plan.guided), guided, v_cond).to(query.v.dtype)

    def _velocity(self, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return primal(self.teacher(z_t, t, t, Condition(y)).v)


def evaluate(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], query: Query, plan: Evaluations, null_label: int
) -> tuple[Tensor, Tensor]:
    """Return conditional and unconditional velocities, each ``(B, C, H, W)``, float32 or better.

    Rows that the plan does not list hold the velocity of another sample and must not be read.

    Args:
        velocity: The network as a function of states, times and labels. It is called once.
        query: States, times, velocities and labels.
        plan: The evaluations.
        null_label: The label that stands for "no class".
    """
    y = torch.where(plan.null, null_label, query.y[plan.samples])
    answers = velocity(query.z_t[plan.samples], query.t[plan.samples], y)
    known = torch.cat([query.v_cond.to(query.v.dtype), answers.to(query.v.dtype)])
    return known[plan.cond], known[plan.uncond]


def expand_mask(mask: Tensor) -> Tensor:
    """Return a mask ``(B,)`` in the shape ``(B, 1, 1, 1)``."""
    return mask[:, None, None, None]
