"""The official training steps, written out literally. Benchmarks compare the steps of this project with them.

Every guidance evaluation is made for every sample, and no known value is reused. The derivative comes from
``torch.func.jvp``. Losses and gradients equal the losses and gradients of ``meanflow.objectives``. Only settings are
taken from there. The steps are written from the formulas of Decoupled MeanFlow (Lee et al., 2025), improved MeanFlow
(Geng et al., 2025) and SiT (Ma et al., 2024).

``torch`` has no forward derivative of fused attention. Networks that are differentiated forward therefore use the
backend ``reference``. This is also the default of the official PyTorch code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from meanflow.dual import primal
from meanflow.models import IMFTransformer, NetworkModule
from meanflow.objectives import (
    DecoupledMeanFlow,
    DMFDraws,
    FlowMatching,
    FlowMatchingDraws,
    IMFDraws,
    ImprovedMeanFlow,
)
from meanflow.objectives.guidance import Distillation, Guidance, ModelGuidance
from meanflow.objectives.weighting import AdaptiveWeight, AllPairsLogVariance, PerSampleLogVariance
from meanflow.types import Condition, Objective


def flow_matching(
    objective: FlowMatching,
    plain: NetworkModule,
    differentiated: NetworkModule,
    x: Tensor,
    y: Tensor,
    draws: FlowMatchingDraws,
) -> Tensor:
    """Return losses ``(B,)`` of a flow on the linear path."""
    t = column(draws.t)
    z_t, v = (1 - t) * x + t * draws.e, draws.e - x
    y = torch.where(draws.dropped, plain.null_label, y)
    return (plain(z_t, draws.t, draws.t, Condition(y)).v - v).square().mean((1, 2, 3))


def decoupled_mean_flow(
    objective: DecoupledMeanFlow,
    plain: NetworkModule,
    differentiated: NetworkModule,
    x: Tensor,
    y: Tensor,
    draws: DMFDraws,
) -> Tensor:
    """Return losses, ``(B,)`` or ``(B, B)``, of Decoupled MeanFlow on the linear path.

    Args:
        objective: The objective, for its settings.
        plain: Flow map network for plain evaluations.
        differentiated: The same network with attention that ``torch.func.jvp`` knows.
        x: Data ``(B, C, H, W)``.
        y: Labels ``(B,)``.
        draws: Random numbers of the step, on the device and in the type of ``x``.
    """
    y = torch.where(draws.dropped, plain.null_label, y)
    t_fm, t, r = draws.t_fm, draws.t, draws.r
    z_fm, v_fm = (1 - column(t_fm)) * x + column(t_fm) * draws.e_fm, draws.e_fm - x
    z_t, v = (1 - column(t)) * x + column(t) * draws.e, draws.e - x

    flow = plain(z_fm, t_fm, t_fm, Condition(y))
    v_g_fm = guided(objective.guidance, plain, z_fm, t_fm, v_fm, y, draws.dropped)
    v_g = guided(objective.guidance, plain, z_t, t, v, y, draws.dropped)

    def u_and_logvar(z_t: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        output = differentiated(z_t, t, r, Condition(y))
        return output.u, output.logvar

    tangents = (v_g, torch.ones_like(t), torch.zeros_like(r))
    (u, logvar), (du_dt, _) = jvp(u_and_logvar, (z_t, t, r), tangents)
    u_target = (v_g + column(r - t) * du_dt).detach()

    def weighted(prediction: Tensor, target: Tensor, logvar: Tensor) -> Tensor:
        error = (prediction.to(target.dtype) - target).square().mean((1, 2, 3))
        if not isinstance(objective.weighting, PerSampleLogVariance):
            return error
        if isinstance(objective.weighting, AllPairsLogVariance):
            logvar = logvar[:, None]
        return torch.log(error / torch.exp(logvar) + objective.weighting.eps) + logvar

    return 0.5 * (weighted(flow.u, v_g_fm, flow.logvar) + weighted(u, u_target, logvar))


@torch.no_grad()
def guided(
    guidance: Guidance, network: NetworkModule, z_t: Tensor, t: Tensor, v: Tensor, y: Tensor, dropped: Tensor
) -> Tensor:
    """Return the guided target ``(B, C, H, W)``, from evaluations of all samples with and without their labels."""
    twice, times = torch.cat([z_t, z_t]), torch.cat([t, t])
    if isinstance(guidance, ModelGuidance):
        labels = torch.cat([y, torch.full_like(y, network.null_label)])
        v_cond, v_uncond = network(twice, times, times, Condition(labels)).u.to(v.dtype).chunk(2)
        inside = (t >= guidance.interval[0]) & (t <= guidance.interval[1]) & ~dropped
        return torch.where(column(inside), v + guidance.omega * (v_cond - v_uncond), v)
    if isinstance(guidance, Distillation):
        labels = torch.cat([y, torch.full_like(y, guidance.teacher.null_label)])
        v_cond, v_uncond = primal(guidance.teacher(twice, times, times, Condition(labels)).v).to(v.dtype).chunk(2)
        inside = (t >= guidance.interval[0]) & (t <= guidance.interval[1])
        return torch.where(column(inside), v_uncond + guidance.omega * (v_cond - v_uncond), v_cond)
    return v


def improved_mean_flow(
    objective: ImprovedMeanFlow,
    plain: IMFTransformer,
    differentiated: IMFTransformer,
    x: Tensor,
    y: Tensor,
    draws: IMFDraws,
) -> Tensor:
    """Return losses ``(B,)`` of improved MeanFlow, in the order of the batch; arguments as above."""
    d, ones, zeros = draws, torch.ones_like(draws.t), torch.zeros_like(draws.t)
    t = column(d.t)
    z_t, v_t = (1 - t) * x + t * d.e, d.e - x

    def velocity(z_t: Tensor, t: Tensor, omega: Tensor, y: Tensor) -> Tensor:
        cond = Condition(y, omega, torch.zeros_like(omega), torch.ones_like(omega))
        return plain(z_t, t, t, cond, heads="v").v.to(v_t.dtype)

    with torch.no_grad():
        labels = torch.cat([y, torch.full_like(y, plain.null_label)])
        answers = velocity(torch.cat([z_t, z_t]), torch.cat([d.t, d.t]), torch.cat([d.omega, ones]), labels)
        v_cond, v_uncond = answers.chunk(2)
        v_g_flow = v_t + column(1 - 1 / d.omega) * (v_cond - v_uncond)
        omega = torch.where((d.t >= d.t_min) & (d.t <= d.t_max), d.omega, ones)
        v_cond = velocity(z_t, d.t, omega, y)
        v_g = v_t + column(1 - 1 / omega) * (v_cond - v_uncond)
        v_g = torch.where(column(d.r_equals_t), v_g_flow, v_g)
        v_g = torch.where(column(d.dropped), v_t, v_g)

    y = torch.where(d.dropped, plain.null_label, y)

    def u_and_trunk(z_t: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        trunk: list[Tensor] = []
        hook = differentiated.u_heads[0].register_forward_pre_hook(lambda _, inputs: trunk.append(inputs[0]))
        with hook:
            output = differentiated(z_t, t, r, Condition(y, d.omega, d.t_min, d.t_max), heads="u")
        return output.u, trunk[0]

    # The official code has no tangents of v either: its compiler removes results that are not read.
    u, du_dt, trunk = jvp(u_and_trunk, (z_t, d.t, d.r), (v_cond, ones, zeros), has_aux=True)
    v = primal(plain._image(plain.v_final_layer(plain._run(plain.v_heads, trunk))))
    V = u + column(d.t - d.r) * du_dt.detach()

    weighting = objective.weighting
    assert isinstance(weighting, AdaptiveWeight)

    def weighted(prediction: Tensor) -> Tensor:
        error = (prediction.to(v_g.dtype) - v_g).square().sum((1, 2, 3))
        return error / (error.detach() + weighting.eps) ** weighting.p

    return weighted(V) + weighted(v)


def column(a: Tensor) -> Tensor:
    """Give ``(B,)`` the shape ``(B, 1, 1, 1)``."""
    return a[:, None, None, None]


# torch annotates only one of the shapes of the return value.
jvp: Callable[..., Any] = torch.func.jvp

STEPS: dict[type, Callable[..., Tensor]] = {
    FlowMatching: flow_matching,
    DecoupledMeanFlow: decoupled_mean_flow,
    ImprovedMeanFlow: improved_mean_flow,
}


class Baseline:
    """The official step of an objective, called like the objective but with draws on the device.

    Args:
        objective: Objective of this project, on the linear path.
        differentiated: Network with the parameters of the one that is trained and the attention ``reference``.
    """

    def __init__(self, objective: Objective, differentiated: NetworkModule) -> None:
        self.objective = objective
        self.differentiated = differentiated
        self.step = STEPS[type(objective)]

    def __call__(self, model: NetworkModule, x: Tensor, y: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        """Return losses whose mean is minimized."""
        return self.step(self.objective, model, self.differentiated, x, y, draws)
