"""Improved MeanFlow (Geng et al., 2025, arXiv:2512.02012)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meanflow.dual import primal
from meanflow.interpolant import LinearPath, expand_times
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.flow_matching import at_least_float32
from meanflow.objectives.guidance import Evaluations, Query, evaluate, expand_mask, plan_evaluations
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.label_dropping import IndependentLabelDrop, drop_labels
from meanflow.objectives.times import PartlyEqualPair
from meanflow.objectives.weighting import Weighting
from meanflow.types import AtTimes, Condition, IMFOutput, LossOutput


class IMFDraws(NamedTuple):
    """Random numbers of one step, all ``(B,)`` but the noise.

    Attributes:
        dropped: Which labels are dropped, bool.
        r_equals_t: Which samples have r = t, bool.
        t: Start times.
        r: End times, ``r <= t``.
        omega: Guidance scales, at least 1.
        t_min: Lower ends of the guidance intervals; 0 where r = t.
        t_max: Upper ends; 1 where r = t.
        e: Noise, like the data.
    """

    dropped: Tensor
    r_equals_t: Tensor
    t: Tensor
    r: Tensor
    omega: Tensor
    t_min: Tensor
    t_max: Tensor
    e: Tensor


class IMFPlan(NamedTuple):
    """What a step needs besides the data, on their device.

    Attributes:
        draws: Random numbers, in the type of the data.
        flow: The samples with r = t, int64 ``(num_flow,)``.
        flow_map: The others.
        evaluations: Network evaluations of the v head for guidance and tangents, with the samples with r = t known.
        omega: Guidance scale that each evaluation is told: 1 with the null label, and for t outside the interval.
        share_guided: Share of the samples that guidance changes, a scalar.
    """

    draws: IMFDraws
    flow: Tensor
    flow_map: Tensor
    evaluations: Evaluations
    omega: Tensor
    share_guided: Tensor

    def variable(self) -> tuple[Tensor, ...]:
        """Return the tensors whose length varies from step to step."""
        return self.evaluations.samples, self.evaluations.null, self.omega


class ImprovedMeanFlow:
    """Compound velocity ``V = u + (t - r) sg(du_dt)`` and auxiliary ``v``, both against the guided velocity ``v_g``.

    ``v_g = v + (1 - 1 / omega) (v_cond - v_uncond)`` inside the guidance interval, with the velocities of the network's
    own v head; ``v_g = v`` outside and for dropped labels. The tangent of ``z_t`` is ``v_cond``.

    What would be thrown away is not computed: samples with r = t need no tangent, and their ``v_cond`` is the v output
    of the main forward; ``v_uncond`` is evaluated for guided samples alone; guidance runs without the u head.

    Args:
        times: Distribution of (t, r), with r = t for a share of the batch.
        scales: Distribution of the guidance scale omega.
        intervals: Distribution of the guidance interval.
        label_drop: Which labels are dropped.
        weighting: How the errors of u and of v become losses.
    """

    network_output = IMFOutput

    def __init__(
        self,
        times: PartlyEqualPair,
        scales: PowerLawScale,
        intervals: UniformInterval,
        label_drop: IndependentLabelDrop,
        weighting: Weighting,
    ) -> None:
        self.interpolant = LinearPath()
        self.times = times
        self.scales = scales
        self.intervals = intervals
        self.label_drop = label_drop
        self.weighting = weighting
        self.needs_logvar = weighting.needs_logvar

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> IMFDraws:
        """Draw the random numbers for data of ``shape (B, C, H, W)``."""
        t, r = self.times.sample(shape[0], generator)
        r_equals_t = self.times.r_equals_t(shape[0])
        e = torch.randn(*shape, generator=generator)
        t_min, t_max = self.intervals.sample(r_equals_t, generator)
        omega = self.scales.sample(shape[0], generator)
        dropped = self.label_drop.sample(shape[0], generator)
        return IMFDraws(dropped, r_equals_t, t, r, omega, t_min, t_max, e)

    @staticmethod
    def plan(draws: IMFDraws, x: Tensor) -> IMFPlan:
        """Decide from draws on the CPU what will be evaluated, and bring all of it to the device of ``x``.

        The host never waits for the device.
        """
        flow, flow_map = (mask.nonzero().squeeze(1) for mask in (draws.r_equals_t, ~draws.r_equals_t))
        guided = is_guided(draws)
        evaluations = plan_evaluations(~draws.r_equals_t, guided, flow, len(x))
        inside = (draws.t >= draws.t_min) & (draws.t <= draws.t_max)
        omega = torch.where(inside, draws.omega, 1)[evaluations.samples].masked_fill(evaluations.null, 1)
        dtype = torch.promote_types(x.dtype, torch.float32)

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(x.device, non_blocking=True)
            return moved.to(dtype) if moved.is_floating_point() else moved

        return IMFPlan(
            IMFDraws(*map(move, draws)),
            move(flow),
            move(flow_map),
            Evaluations(*map(move, evaluations)),
            move(omega),
            move(guided.float().mean()),
        )

    def __call__(self, model: Any, x: Tensor, y: Tensor, draws: IMFDraws) -> LossOutput:
        """Return losses ``(B,)``, first those of the samples with r = t.

        Args:
            model: iMF network.
            x: Data ``(B, C, H, W)``.
            y: Labels ``(B,)``.
            draws: Random numbers of the step, on the CPU.
        """
        return self.loss(model, x, y, self.plan(draws, x))

    def loss(self, model: Any, x: Tensor, y: Tensor, plan: IMFPlan) -> LossOutput:
        """Return what ``__call__`` returns, for draws that are planned: one graph for ``torch.compile``."""
        x, d, flow, flow_map = at_least_float32(x), plan.draws, plan.flow, plan.flow_map
        z_t, v_t = self.interpolant.state(x, d.e, d.t), self.interpolant.velocity(x, d.e, d.t)
        cond = Condition(drop_labels(y, d.dropped, model.null_label), d.omega, d.t_min, d.t_max)

        V, v = [], []
        v_flow = v_t[:0]
        if len(flow):  # r = t: one plain forward, V = u
            plain = model(z_t[flow], d.t[flow], d.t[flow], _at(cond, flow))
            V.append(primal(plain.u).to(v_t.dtype))
            v.append(plain.v.to(v_t.dtype))
            v_flow = v[0].detach()
        v_g, v_cond = guided_velocity(model, z_t, v_t, y, plan, v_flow)
        du_dt_norm = v_t.new_zeros(0)
        if len(flow_map):  # r < t: V = u + (t - r) sg(du_dt), tangents (v_cond, 1, 0)
            output, du_dt = value_and_derivative(
                model, z_t[flow_map], d.t[flow_map], d.r[flow_map], _at(cond, flow_map), v_cond[flow_map]
            )
            h = expand_times((d.t - d.r)[flow_map], v_t)
            V.append(output.u.to(v_t.dtype) + h * du_dt.to(v_t.dtype))
            v.append(output.v.to(v_t.dtype))
            du_dt_norm = du_dt.flatten(1).float().norm(dim=1)

        order = torch.cat([flow, flow_map])
        target = v_g[order]
        u_error, v_error = (sum_of_squares(torch.cat(prediction), target) for prediction in (V, v))
        no_logvar, num_values = torch.zeros_like(u_error), x[0].numel()
        return LossOutput(
            self.weighting(u_error, no_logvar) + self.weighting(v_error, no_logvar),
            {
                "u_loss": u_error.detach().mean() / num_values,
                "v_loss": v_error.detach().mean() / num_values,
                "du_dt_norm": du_dt_norm.sum() / max(1, len(flow_map)),
                "share_guided": plan.share_guided,
            },
            {
                "u_loss": AtTimes(d.t[order], u_error.detach() / num_values),
                "v_loss": AtTimes(d.t[order], v_error.detach() / num_values),
                "du_dt_norm": AtTimes(d.t[flow_map], du_dt_norm),
            },
        )


def is_guided(draws: IMFDraws) -> Tensor:
    """Return which samples are guided, bool ``(B,)``: label kept, and r = t or t inside the interval."""
    inside = (draws.t >= draws.t_min) & (draws.t <= draws.t_max)
    return (draws.r_equals_t | inside) & ~draws.dropped


@torch.no_grad()
def guided_velocity(
    model: Any, z_t: Tensor, v_t: Tensor, y: Tensor, plan: IMFPlan, v_flow: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the target ``v_g`` and the conditional velocity ``v_cond``, both without gradients.

    ``v_cond`` is the v output at h = 0 with the full interval, for the label before dropping; outside the guidance
    interval with omega = 1. One network call, of the v head alone.

    Args:
        model: iMF network.
        z_t: States ``(B, C, H, W)``.
        v_t: Their sample velocities.
        y: Labels before dropping ``(B,)``.
        plan: What to evaluate.
        v_flow: ``v_cond`` of the samples with r = t, in their order; whoever ran them has it already. Where the label
            was dropped it is not read.
    """
    if not len(plan.evaluations.samples):
        return v_t, v_flow[plan.evaluations.cond]

    def velocity(z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        cond = Condition(y, plan.omega, torch.zeros_like(plan.omega), torch.ones_like(plan.omega))
        return model(z_t, t, t, cond, heads="v").v

    query = Query(z_t, plan.draws.t, v_t, y, v_flow)
    v_cond, v_uncond = evaluate(velocity, query, plan.evaluations, model.null_label)
    strength = expand_times(1 - 1 / plan.draws.omega, v_t)
    return torch.where(expand_mask(plan.evaluations.guided), v_t + strength * (v_cond - v_uncond), v_t), v_cond


def sum_of_squares(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of each sample, summed over its values, ``(B,)``."""
    return (prediction - target).square().flatten(1).sum(1)


def _at(cond: Condition, index: Tensor) -> Condition:
    assert cond.omega is not None
    assert cond.t_min is not None
    assert cond.t_max is not None
    return Condition(cond.y[index], cond.omega[index], cond.t_min[index], cond.t_max[index])
