"""Guided target velocities for training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.dual import primal
from meanflow.types import Condition, FlowOutput


class Query(NamedTuple):
    """States whose target velocity is asked for.

    Attributes:
        z_t: States ``(B, C, H, W)``.
        t: Their times ``(B,)``.
        v: Their sample velocities ``d z_t / d t``, the targets without guidance.
        y: Labels ``(B,)``, null where dropped.
        dropped: Which labels were dropped, bool ``(B,)``.
        v_cond: The trained network's conditional velocity, where the objective has it already.
    """

    z_t: Tensor
    t: Tensor
    v: Tensor
    y: Tensor
    dropped: Tensor
    v_cond: Tensor | None = None


class Guidance(ABC):
    """Turns sample velocities into target velocities."""

    @abstractmethod
    def targets(self, model: Any, queries: Sequence[Query]) -> list[Tensor]:
        """Return the detached target ``v_g (B, C, H, W)`` of each query; all network calls are one batch."""

    @abstractmethod
    def guided(self, query: Query) -> Tensor:
        """Return which samples of a query the guidance changes, bool ``(B,)``."""


class NoGuidance(Guidance):
    """``v_g = v``."""

    @override
    def targets(self, model: Any, queries: Sequence[Query]) -> list[Tensor]:
        return [query.v for query in queries]

    @override
    def guided(self, query: Query) -> Tensor:
        return torch.zeros_like(query.dropped)


class IntervalGuidance(Guidance):
    """Guidance of scale ``omega`` where ``t`` lies in the closed interval ``[t_min, t_max]``.

    Samples with a dropped label are never guided.
    """

    def __init__(self, omega: float, t_min: float = 0.0, t_max: float = 1.0) -> None:
        if not 0 <= t_min <= t_max <= 1:
            raise ValueError(f"the guidance interval must satisfy 0 <= t_min <= t_max <= 1, got [{t_min}, {t_max}]")
        self.omega = omega
        self.t_min = t_min
        self.t_max = t_max

    @override
    def guided(self, query: Query) -> Tensor:
        return (query.t >= self.t_min) & (query.t <= self.t_max) & ~query.dropped


class ModelGuidance(IntervalGuidance):
    """``v_g = v + omega (v_cond - v_uncond)`` with the trained network's own velocities at r = t.

    Model guidance (Tang et al., 2025), as in Decoupled MeanFlow. Only guided samples cost network evaluations, and a
    query that knows ``v_cond`` costs the unconditional one alone.
    """

    @override
    def targets(self, model: Any, queries: Sequence[Query]) -> list[Tensor]:
        calls = _Calls()
        indices = [_indices(self.guided(query), query.z_t) for query in queries]
        uncond = [calls.add(query, index, model.null_label) for query, index in zip(queries, indices, strict=True)]
        cond = [
            calls.add(query, index) if query.v_cond is None else None
            for query, index in zip(queries, indices, strict=True)
        ]
        answers = calls.run(lambda z_t, t, y: model(z_t, t, t, Condition(y)).u)
        targets = []
        for query, index, with_label, without in zip(queries, indices, cond, uncond, strict=True):
            if with_label is not None:
                v_cond = answers[with_label]
            else:
                assert query.v_cond is not None
                v_cond = query.v_cond.detach()[index]
            difference = (v_cond - answers[without]).to(query.v.dtype)
            targets.append(query.v.index_add(0, index, self.omega * difference))
        return targets


class Distillation(IntervalGuidance):
    """Classifier-free guided velocity of a frozen flow network.

    ``v_g = v_uncond + omega (v_cond - v_uncond)`` inside the interval and ``v_cond`` outside, both of the teacher.
    For a dropped label both are equal, so the unconditional evaluation is left out.

    Args:
        teacher: Flow network, called ``(z_t, t, r, cond)``; it is evaluated without gradients.
        omega: Guidance scale.
        t_min: Lower end of the interval.
        t_max: Upper end of the interval.
    """

    def __init__(self, teacher: Any, omega: float, t_min: float = 0.0, t_max: float = 1.0) -> None:
        super().__init__(omega, t_min, t_max)
        self.teacher = teacher

    @override
    def targets(self, model: Any, queries: Sequence[Query]) -> list[Tensor]:
        calls = _Calls()
        plans = []
        for query in queries:
            everyone = torch.arange(query.z_t.shape[0], device=query.z_t.device)
            index = _indices(self.guided(query), query.z_t)
            plans.append((index, calls.add(query, everyone), calls.add(query, index, label=self.teacher.null_label)))
        answers = calls.run(self._velocity)
        return [
            answers[cond].index_add(0, index, (self.omega - 1) * (answers[cond][index] - answers[null]))
            for index, cond, null in plans
        ]

    def _velocity(self, z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        output = self.teacher(z_t, t, t, Condition(y))
        if not isinstance(output, FlowOutput):
            raise ValueError(f"the teacher must be a flow network, got one that returns {type(output).__name__}")
        return primal(output.v)


class _Calls:
    """Network evaluations of several queries, gathered into one batch without gradients."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, query: Query, index: Tensor, label: int | None = None) -> int:
        """Ask for the velocities of some samples, with their own or a common label; return the answer's number."""
        y = query.y[index] if label is None else torch.full_like(query.y[index], label)
        t = query.t.to(query.z_t.device, query.z_t.dtype, non_blocking=True)[index]
        self.parts.append((query.z_t[index], t, y))
        return len(self.parts) - 1

    @torch.no_grad()
    def run(self, velocity: Any) -> list[Tensor]:
        """Evaluate ``velocity(z_t, t, y)`` once for all that was asked; answers are float32 or better."""
        z_t, t, y = (torch.cat(parts) for parts in zip(*self.parts, strict=True))
        answer = velocity(z_t, t, y) if len(z_t) else z_t
        answer = answer.to(torch.promote_types(answer.dtype, torch.float32))
        return list(answer.split([len(part[2]) for part in self.parts]))


def _indices(mask: Tensor, like: Tensor) -> Tensor:
    """Return where ``mask (B,)`` is true, on the device of ``like``; if the mask is on the CPU the host never waits."""
    return mask.nonzero().squeeze(1).to(like.device, non_blocking=True)
