"""Decoupled MeanFlow (Lee et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meanflow.dual import primal
from meanflow.interpolant import Interpolant, expand_times
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.flow_matching import at_least_float32, mean_squared_error
from meanflow.objectives.guidance import Evaluations, Guidance, Query
from meanflow.objectives.label_dropping import IndependentLabelDrop, drop_labels
from meanflow.objectives.times import OrderedPair, TimeDistribution
from meanflow.objectives.weighting import Weighting
from meanflow.types import AtTimes, Condition, FlowMapOutput, LossOutput


class DMFDraws(NamedTuple):
    """Random numbers of one step.

    Attributes:
        dropped: Which labels are dropped, bool ``(B,)``, in both halves.
        t_fm: Times of the flow-matching half ``(B,)``.
        t: Start times of the MeanFlow half ``(B,)``.
        r: End times of the MeanFlow half ``(B,)``, ``r <= t``.
        e_fm: Noise of the flow-matching half, like the data.
        e: Noise of the MeanFlow half.
    """

    dropped: Tensor
    t_fm: Tensor
    t: Tensor
    r: Tensor
    e_fm: Tensor
    e: Tensor


class DMFPlan(NamedTuple):
    """What a step needs besides the data, on their device.

    Attributes:
        draws: Random numbers, in the type of the data.
        evaluations: Network evaluations for guidance, of the flow-matching half and then the MeanFlow half.
        share_guided: Share of the samples that guidance changes, a scalar.
    """

    draws: DMFDraws
    evaluations: Evaluations
    share_guided: Tensor

    def variable(self) -> tuple[Tensor, ...]:
        """Return the tensors whose length varies from step to step."""
        return self.evaluations.samples, self.evaluations.null


class DecoupledMeanFlow:
    """Half flow matching at r = t, half MeanFlow, each under a learned log-variance.

    Args:
        interpolant: Path from data to noise.
        flow_times: Distribution of t in the flow-matching half.
        map_times: Distribution of (t, r) in the MeanFlow half.
        guidance: How target velocities are guided.
        weighting: How errors and log-variances become losses.
        label_drop: Which labels are replaced by the null label; each with probability 0.1 by default.
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
        self.needs_logvar = weighting.needs_logvar
        self.label_drop = label_drop or IndependentLabelDrop()

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> DMFDraws:
        """Draw the random numbers for data of ``shape (B, C, H, W)``."""
        dropped = self.label_drop.sample(shape[0], generator)
        t_fm = self.flow_times.sample(shape[0], generator)
        t, r = self.map_times.sample(shape[0], generator)
        e_fm, e = torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)
        return DMFDraws(dropped, t_fm, t, r, e_fm, e)

    def plan(self, draws: DMFDraws, x: Tensor) -> DMFPlan:
        """Decide from draws on the CPU what will be evaluated, and bring all of it to the device of ``x``.

        The host never waits for the device.
        """
        t, dropped = torch.cat([draws.t_fm, draws.t]), draws.dropped.repeat(2)
        # The flow-matching forward also is the conditional velocity that guidance needs for that half.
        evaluations = self.guidance.plan(t, dropped, num_known=len(x), batch_size=len(x))
        dtype = torch.promote_types(x.dtype, torch.float32)
        moved = (draw.to(x.device, non_blocking=True) for draw in draws)
        return DMFPlan(
            DMFDraws(*(draw.to(dtype) if draw.is_floating_point() else draw for draw in moved)),
            evaluations.to(x.device),
            evaluations.guided.float().mean().to(x.device, non_blocking=True),
        )

    def __call__(self, model: Any, x: Tensor, y: Tensor, draws: DMFDraws) -> LossOutput:
        """Return losses, ``(B,)`` or as the weighting shapes them.

        Args:
            model: Flow map network.
            x: Data ``(B, C, H, W)``.
            y: Labels ``(B,)``.
            draws: Random numbers of the step, on the CPU.
        """
        return self.loss(model, x, y, self.plan(draws, x))

    def loss(self, model: Any, x: Tensor, y: Tensor, plan: DMFPlan) -> LossOutput:
        """Return what ``__call__`` returns, for draws that are planned: one graph for ``torch.compile``."""
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
