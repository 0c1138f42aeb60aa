"""Improved MeanFlow (Geng et al., 2025, arXiv:2512.02012)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.dual import primal
from meanflow.interpolant import LinearPath, expand_times
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.guidance import Evaluations, Query, evaluate, expand_mask, plan_evaluations
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.label_drop import IndependentLabelDrop, drop_labels
from meanflow.objectives.precision import at_least_float32, match_data
from meanflow.objectives.times import PartlyEqualPair
from meanflow.objectives.weighting import Weighting
from meanflow.types import AtTimes, Condition, IMFOutput, LossOutput, Network, Objective


class IMFDraws(NamedTuple):
    """Random numbers of one step.

    Attributes:
        dropped: Whether the label of a sample is dropped, bool ``(B,)``.
        r_equals_t: Whether a sample has ``r = t``, bool ``(B,)``.
        t: Start times ``(B,)``.
        r: End times ``(B,)``, ``r <= t``.
        omega: Guidance scales ``(B,)``, above 0.
        t_min: Lower ends of the guidance intervals ``(B,)``; 0 where ``r = t``.
        t_max: Upper ends of the guidance intervals ``(B,)``; 1 where ``r = t``.
        e: Noise ``(B, C, H, W)``.
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
    """Everything that a step needs besides the data, on the device of the data.

    Attributes:
        draws: Random numbers, floating-point ones in the data type of the step.
        flow: Indices of the samples with ``r = t``, int64 ``(num_flow,)``.
        flow_map: Indices of the samples with ``r < t``, int64 ``(num_flow_map,)``.
        evaluations: Evaluations of the v head for guidance and tangents. The samples with ``r = t`` are known.
        omega: Guidance scale of each evaluation ``(num_evaluations,)``: 1 with the null label, and for ``t`` outside
            the interval.
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


class ImprovedMeanFlow(Objective[Network[IMFOutput], IMFDraws, IMFPlan]):
    """Compound velocity ``V = u + (t - r) sg(du_dt)`` and auxiliary ``v``, both against the guided velocity ``v_g``.

    ``v_g = v + (1 - 1 / omega) (v_cond - v_uncond)`` inside the guidance interval, with the velocities of the v head of
    the trained network. ``v_g = v`` outside the interval and for dropped labels. The tangent of ``z_t`` is ``v_cond``.

    The step computes nothing that it would throw away. Samples with ``r = t`` have no tangent, and the main forward
    gives their ``v_cond``. Only guided samples get a ``v_uncond``. Guidance runs without the u head.

    The losses ``(B,)`` begin with the samples with ``r = t``.

    Args:
        times: Distribution of ``(t, r)``, with ``r = t`` for a share of the batch.
        scales: Distribution of the guidance scale ``omega``.
        intervals: Distribution of the guidance interval ``[t_min, t_max]``.
        label_drop: Decides which labels are dropped.
        weighting: Turns the errors of ``u`` and of ``v`` into losses. The network learns no log-variance.
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

    @property
    @override
    def needs_logvar(self) -> bool:
        return self.weighting.needs_logvar

    @override
    def draw(self, shape: Sequence[int], generator: torch.Generator) -> IMFDraws:
        t, r = self.times.sample(shape[0], generator)
        r_equals_t = self.times.r_equals_t(shape[0])
        e = torch.randn(*shape, generator=generator)
        t_min, t_max = self.intervals.sample(r_equals_t, generator)
        omega = self.scales.sample(shape[0], generator)
        dropped = self.label_drop.sample(shape[0], generator)
        return IMFDraws(dropped, r_equals_t, t, r, omega, t_min, t_max, e)

    @override
    def plan(self, draws: IMFDraws, x: Tensor) -> IMFPlan:
        flow, flow_map = (mask.nonzero().squeeze(1) for mask in (draws.r_equals_t, ~draws.r_equals_t))
        inside = (draws.t >= draws.t_min) & (draws.t <= draws.t_max)
        # Samples with r = t have the full interval. Guidance of scale 1 changes nothing.
        guided = (draws.r_equals_t | inside) & ~draws.dropped & (draws.omega != 1)
        evaluations = plan_evaluations(~draws.r_equals_t, guided, flow, len(x))
        omega = torch.where(inside, draws.omega, 1)[evaluations.samples].masked_fill(evaluations.null, 1)
        return match_data(IMFPlan(draws, flow, flow_map, evaluations, omega, guided.float().mean()), x)

    @override
    def loss(self, model: Network[IMFOutput], x: Tensor, y: Tensor, plan: IMFPlan) -> LossOutput:
        x, d, flow, flow_map = at_least_float32(x), plan.draws, plan.flow, plan.flow_map
        z_t, v_t = self.interpolant.state(x, d.e, d.t), self.interpolant.velocity(x, d.e, d.t)
        cond = Condition(drop_labels(y, d.dropped, model.null_label), d.omega, d.t_min, d.t_max)

        V, v = [], []
        v_flow = v_t[:0]
        if len(flow):  # r = t: one plain forward, V = u
            u_output, v_output = both_heads(model(z_t[flow], d.t[flow], d.t[flow], _at(cond, flow)))
            V.append(u_output.to(v_t.dtype))
            v.append(v_output.to(v_t.dtype))
            v_flow = v[0].detach()
        v_g, v_cond = guided_velocity(model, z_t, v_t, y, plan, v_flow)
        du_dt_norm = v_t.new_zeros(0)
        if len(flow_map):  # r < t: V = u + (t - r) sg(du_dt), tangents (v_cond, 1, 0)
            output, du_dt = value_and_derivative(
                model, z_t[flow_map], d.t[flow_map], d.r[flow_map], _at(cond, flow_map), v_cond[flow_map]
            )
            h = expand_times((d.t - d.r)[flow_map], v_t)
            u_output, v_output = both_heads(output)
            V.append(u_output.to(v_t.dtype) + h * du_dt.to(v_t.dtype))
            v.append(v_output.to(v_t.dtype))
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


@torch.no_grad()
def guided_velocity(
    model: Network[IMFOutput], z_t: Tensor, v_t: Tensor, y: Tensor, plan: IMFPlan, v_flow: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the target ``v_g`` and the conditional velocity ``v_cond``, both ``(B, C, H, W)`` and without gradients.

    ``v_cond`` is the v output at ``h = 0`` for the label before dropping, with the full interval, and with
    ``omega = 1`` if ``t`` lies outside the guidance interval. The network is called once, with the v head alone.

    Args:
        model: iMF network.
        z_t: States ``(B, C, H, W)``.
        v_t: Velocities of the samples ``(B, C, H, W)``.
        y: Labels before dropping ``(B,)``.
        plan: Plan of the step.
        v_flow: ``v_cond`` of the samples with ``r = t``, ``(num_flow, C, H, W)``. The main forward computes it. Rows of
            dropped labels are not read.
    """
    if not len(plan.evaluations.samples):
        return v_t, v_flow[plan.evaluations.cond]

    def velocity(z_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        cond = Condition(y, plan.omega, torch.zeros_like(plan.omega), torch.ones_like(plan.omega))
        v = model(z_t, t, t, cond, heads="v").v
        assert v is not None
        return v

    query = Query(z_t, plan.draws.t, v_t, y, v_flow)
    v_cond, v_uncond = evaluate(velocity, query, plan.evaluations, model.null_label)
    strength = expand_times(1 - 1 / plan.draws.omega, v_t)
    return torch.where(expand_mask(plan.evaluations.guided), v_t + strength * (v_cond - v_uncond), v_t), v_cond


def both_heads(output: IMFOutput) -> tuple[Tensor, Tensor]:
    """Return ``u`` and ``v`` of a call that asked for both, each ``(B, C, H, W)``."""
    assert output.u is not None
    assert output.v is not None
    return primal(output.u), output.v


def sum_of_squares(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of each sample, summed over its values, ``(B,)``."""
    return (prediction - target).square().flatten(1).sum(1)


def _at(cond: Condition, index: Tensor) -> Condition:
    assert cond.omega is not None
    assert cond.t_min is not None
    assert cond.t_max is not None
    return Condition(cond.y[index], cond.omega[index], cond.t_min[index], cond.t_max[index])
