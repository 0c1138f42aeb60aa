"""Decoupled MeanFlow (Lee et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.dual import primal
from meanflow.interpolant import Interpolant, expand_times
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.flow_matching import mean_squared_error
from meanflow.objectives.guidance import Evaluations, Guidance, Query
from meanflow.objectives.label_drop import IndependentLabelDrop, drop_labels
from meanflow.objectives.precision import at_least_float32, match_data
from meanflow.objectives.times import OrderedPair, TimeDistribution
from meanflow.objectives.weighting import Weighting
from meanflow.types import AtTimes, Condition, FlowMapOutput, LossOutput, Network, Objective


class DMFDraws(NamedTuple):
    """Random numbers of one step.

    Attributes:
        dropped: Whether the label of a sample is dropped in both halves, bool ``(B,)``.
        t_fm: Times of the flow-matching half ``(B,)``.
        t: Start times of the MeanFlow half ``(B,)``.
        r: End times of the MeanFlow half ``(B,)``, ``r <= t``.
        e_fm: Noise of the flow-matching half ``(B, C, H, W)``.
        e: Noise of the MeanFlow half ``(B, C, H, W)``.
    """

    dropped: Tensor
    t_fm: Tensor
    t: Tensor
    r: Tensor
    e_fm: Tensor
    e: Tensor


class DMFPlan(NamedTuple):
    """Everything that a step needs besides the data, on the device of the data.

    Attributes:
        draws: Random numbers, floating-point ones in the data type of the step.
        evaluations: Network evaluations for guidance, first those of the flow-matching half.
        share_guided: Share of the samples that guidance changes, a scalar.
    """

    draws: DMFDraws
    evaluations: Evaluations
    share_guided: Tensor

    def variable(self) -> tuple[Tensor, ...]:
        """Return the tensors whose length varies from step to step."""
        return self.evaluations.samples, self.evaluations.null


class DecoupledMeanFlow(Objective[Network[FlowMapOutput], DMFDraws, DMFPlan]):
    """The mean of two terms: flow matching at ``r = t``, and MeanFlow.

    Each term covers every sample of a batch, with its own times and noise.

    The weighting turns the mean squared error of a sample and the learned log-variance into a loss.

    Args:
        interpolant: Path between data and noise.
        flow_times: Distribution of ``t`` in the flow-matching half.
        map_times: Distribution of ``(t, r)`` in the MeanFlow half.
        guidance: Guidance of the target velocities.
        weighting: Turns errors and log-variances into losses.
        label_drop: Decides which labels are dropped; each with probability 0.1 by default.
    """

    network_output = FlowMapOutput

    def __init__(
        self,
        interpolant: Interpolant,
        flow_times: TimeDistribution,
        map_times: OrderedPair,
        guidance: Guidance,
        weighting: Weighting,
        label_drop: IndependentLabelDrop | None = None,
    ) -> None:
        self.interpolant = interpolant
        self.flow_times = flow_times
        self.map_times = map_times
        self.guidance = guidance
        self.weighting = weighting
        self.label_drop = label_drop or IndependentLabelDrop()

    @property
    @override
    def needs_logvar(self) -> bool:
        return self.weighting.needs_logvar

    @override
    def draw(self, shape: Sequence[int], generator: torch.Generator) -> DMFDraws:
        dropped = self.label_drop.sample(shape[0], generator)
        t_fm = self.flow_times.sample(shape[0], generator)
        t, r = self.map_times.sample(shape[0], generator)
        e_fm, e = torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)
        return DMFDraws(dropped, t_fm, t, r, e_fm, e)

    @override
    def plan(self, draws: DMFDraws, x: Tensor) -> DMFPlan:
        t, dropped = torch.cat([draws.t_fm, draws.t]), draws.dropped.repeat(2)
        # The flow-matching forward is also the conditional velocity that guidance needs for that half.
        evaluations = self.guidance.plan(t, dropped, num_known=len(x), batch_size=len(x))
        return match_data(DMFPlan(draws, evaluations, evaluations.guided.float().mean()), x)

    @override
    def loss(self, model: Network[FlowMapOutput], x: Tensor, y: Tensor, plan: DMFPlan) -> LossOutput:
        x, draws = at_least_float32(x), plan.draws
        t_fm, t, r = draws.t_fm, draws.t, draws.r
        y = drop_labels(y, draws.dropped, model.null_label)
        z_fm, v_fm = self.interpolant.state(x, draws.e_fm, t_fm), self.interpolant.velocity(x, draws.e_fm, t_fm)
        z_t, v = self.interpolant.state(x, draws.e, t), self.interpolant.velocity(x, draws.e, t)

        # Flow matching at r = t.
        flow = model(z_fm, t_fm, t_fm, Condition(y))
        # Stop-gradient on both targets: guidance runs without gradients.
        z, times, v_both, labels = (torch.cat(halves) for halves in ((z_fm, z_t), (t_fm, t), (v_fm, v), (y, y)))
        query = Query(z, times, v_both, labels, v_cond=primal(flow.u).detach())
        v_g_fm, v_g = self.guidance.targets(model, query, plan.evaluations).chunk(2)

        # MeanFlow identity, u = v_g - (t - r) sg(du_dt), with tangents (v_g, 1, 0).
        output, du_dt = value_and_derivative(model, z_t, t, r, Condition(y), v_g)
        u_target = v_g - expand_times(t - r, v_g) * du_dt.to(v_g.dtype)

        fm_error, mf_error = mean_squared_error(flow.u, v_g_fm), mean_squared_error(output.u, u_target)
        fm_logvar, mf_logvar = flow.logvar.to(fm_error.dtype), output.logvar.to(mf_error.dtype)
        loss = 0.5 * (self.weighting(fm_error, fm_logvar) + self.weighting(mf_error, mf_logvar))
        by_t = {
            "fm_loss": AtTimes(t_fm, fm_error.detach()),
            "mf_loss": AtTimes(t, mf_error.detach()),
            "du_dt_norm": AtTimes(t, du_dt.flatten(1).float().norm(dim=1)),
        }
        return LossOutput(
            loss,
            {
                **{name: samples.value.mean() for name, samples in by_t.items()},
                "share_guided": plan.share_guided,
                "logvar": 0.5 * (fm_logvar + mf_logvar).detach().mean(),
            },
            by_t,
        )
