"""Improved MeanFlow (Geng et al., 2025, arXiv:2512.02012)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from meanflow.derivative import value_and_derivative
from meanflow.dual import primal
from meanflow.interpolant import LinearPath, expand_times
from meanflow.objectives.flow_matching import at_least_float32
from meanflow.objectives.label_dropping import drop_labels
from meanflow.types import Condition, LossOutput
from meanflow.weighting import AdaptiveWeight


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

    def like(self, x: Tensor) -> IMFDraws:
        """Return the draws on the device of ``x``, numbers in its type."""
        moved = (draw.to(x.device, non_blocking=True) for draw in self)
        return IMFDraws(*(draw.to(x.dtype) if draw.is_floating_point() else draw for draw in moved))


class ImprovedMeanFlow:
    """Compound velocity ``V = u + (t - r) sg(du_dt)`` and auxiliary ``v``, both against the guided velocity ``v_g``.

    ``v_g = v + (1 - 1 / omega) (v_cond - v_uncond)`` inside the guidance interval, with the velocities of the network's
    own v head; ``v_g = v`` outside and for dropped labels. The tangent of ``z_t`` is ``v_cond``.

    What would be thrown away is not computed: samples with r = t need no tangent, and their ``v_cond`` is the v output
    of the main forward; ``v_uncond`` is evaluated for guided samples alone; guidance runs without the u head.

    Args:
        weight: Adaptive weight of each sample's error.
    """

    def __init__(self, weight: AdaptiveWeight) -> None:
        self.path = LinearPath()
        self.weight = weight

    def __call__(self, model: Any, x: Tensor, y: Tensor, draws: IMFDraws) -> LossOutput:
        """Return losses ``(B,)``, first those of the samples with r = t.

        Args:
            model: iMF network.
            x: Data ``(B, C, H, W)``.
            y: Labels ``(B,)``.
            draws: Random numbers of the step.
        """
        x = at_least_float32(x)
        # Chosen where the draws are (on the CPU), so that the host never waits for the device.
        flow, flow_map = (mask.nonzero().squeeze(1) for mask in (draws.r_equals_t, ~draws.r_equals_t))
        inside = (draws.t >= draws.t_min) & (draws.t <= draws.t_max)
        flow_guided = flow[~draws.dropped[flow]]
        map_guided = flow_map[(inside & ~draws.dropped)[flow_map]]
        flow, flow_map, flow_guided, map_guided = (
            index.to(x.device, non_blocking=True) for index in (flow, flow_map, flow_guided, map_guided)
        )
        inside = inside.to(x.device, non_blocking=True)
        d = draws.like(x)
        z_t, v_t = self.path.state(x, d.e, d.t), self.path.velocity(x, d.e, d.t)
        cond = Condition(drop_labels(y, draws.dropped, model.null_label), d.omega, d.t_min, d.t_max)

        # r = t: one plain forward. Its v output is v_cond, since the inputs are the same (h = 0, full interval).
        plain = model(z_t[flow], d.t[flow], d.t[flow], _at(cond, flow)) if len(flow) else None

        # Guidance: v_cond of the others, v_uncond of the guided ones, in one batch. Outside the interval omega is 1.
        omega = torch.where(inside, d.omega, torch.ones_like(d.omega))
        guided = torch.cat([flow_guided, map_guided])
        v_cond = torch.zeros_like(v_t)
        v_uncond = torch.zeros_like(v_t)
        with torch.no_grad():  # stop-gradient on v_g and on the tangent
            if plain is not None:
                v_cond[flow] = plain.v.to(v_t.dtype)
            if len(flow_map) + len(guided):
                index = torch.cat([flow_map, guided])
                null = torch.full_like(y[guided], model.null_label)
                scales = torch.cat([omega[flow_map], torch.ones_like(omega[guided])])
                full = Condition(
                    torch.cat([y[flow_map], null]), scales, torch.zeros_like(scales), torch.ones_like(scales)
                )
                v = model(z_t[index], d.t[index], d.t[index], full, heads="v").v.to(v_t.dtype)
                v_cond[flow_map], v_uncond[guided] = v[: len(flow_map)], v[len(flow_map) :]
            strength = expand_times(1 - 1 / d.omega[guided], v_t)
            v_g = v_t.index_add(0, guided, strength * (v_cond - v_uncond)[guided])

        # r < t: value and derivative along (v_cond, 1, 0); V = u + (t - r) sg(du_dt).
        V, v = [], []
        du_dt_norm = v_t.new_zeros(())
        if plain is not None:
            V.append(primal(plain.u).to(v_t.dtype))
            v.append(plain.v.to(v_t.dtype))
        if len(flow_map):
            output, du_dt = value_and_derivative(
                model, z_t[flow_map], d.t[flow_map], d.r[flow_map], _at(cond, flow_map), v_cond[flow_map]
            )
            h = expand_times((d.t - d.r)[flow_map], v_t)
            V.append(output.u.to(v_t.dtype) + h * du_dt.to(v_t.dtype))
            v.append(output.v.to(v_t.dtype))
            du_dt_norm = du_dt.flatten(1).float().norm(dim=1).mean()

        v_g = v_g[torch.cat([flow, flow_map])]
        u_error, v_error = (sum_of_squares(torch.cat(prediction), v_g) for prediction in (V, v))
        num_values = v_g[0].numel()
        return LossOutput(
            self.weight(u_error) + self.weight(v_error),
            {
                "u_loss": u_error.detach().mean() / num_values,
                "v_loss": v_error.detach().mean() / num_values,
                "du_dt_norm": du_dt_norm,
                "share_guided": torch.tensor(len(guided) / len(x)).to(x.device, non_blocking=True),
            },
        )


def sum_of_squares(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of each sample, summed over its values, ``(B,)``."""
    return (prediction - target).square().flatten(1).sum(1)


def _at(cond: Condition, index: Tensor) -> Condition:
    assert cond.omega is not None
    assert cond.t_min is not None
    assert cond.t_max is not None
    return Condition(cond.y[index], cond.omega[index], cond.t_min[index], cond.t_max[index])
