"""The value and the total derivative of a flow map in one pass."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from meanflow.dual import Dual
from meanflow.types import Condition, FlowMapOutput, IMFOutput, Network

MapOutput = TypeVar("MapOutput", FlowMapOutput, IMFOutput)


def value_and_derivative(
    model: Network[MapOutput], z_t: Tensor, t: Tensor, r: Tensor, cond: Condition, v: Tensor
) -> tuple[MapOutput, Tensor]:
    """Evaluate a flow map and its derivative along the flow.

    Args:
        model: Flow map network.
        z_t: State ``(B, C, H, W)``.
        t: Time of the state ``(B,)``.
        r: Time to go to ``(B,)``, ``r <= t``.
        cond: Condition of the samples.
        v: Velocity of the state ``(B, C, H, W)``, the tangent of ``z_t``.

    Returns:
        The output of the network, and ``du_dt = v . du/dz + du/dt (B, C, H, W)``, with tangents ``(v, 1, 0)``. ``u`` of
        the output is a plain tensor that autograd tracks. Autograd does not track ``du_dt``.
    """
    output = model(Dual(z_t, v.detach()), Dual(t, torch.ones_like(t)), r, cond)
    u = output.u
    assert isinstance(u, Dual)
    return output._replace(u=u.primal), u.tangent
