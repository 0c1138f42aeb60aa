"""The value and the total derivative of a flow map in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meanflow.dual import Dual
from meanflow.types import Condition


def value_and_derivative(
    model: Any, z_t: Tensor, t: Tensor, r: Tensor, cond: Condition, v: Tensor
) -> tuple[Any, Tensor]:
    """Evaluate a flow map and its derivative along the flow.

    Args:
        model: Flow map network, called ``(z_t, t, r, cond)``.
        z_t: State ``(B, C, H, W)``.
        t: Time of the state ``(B,)``.
        r: Time to go to ``(B,)``.
        cond: Condition of the samples.
        v: Velocity of the state, the tangent of ``z_t``.

    Returns:
        The network's output (``FlowMapOutput`` or ``IMFOutput``) with a plain ``u``, tracked by autograd, and
        ``du_dt = v . du/dz + du/dt`` (tangents ``(v, 1, 0)``), which is never tracked.
    """
    output = model(Dual(z_t, v.detach()), Dual(t, torch.ones_like(t)), r, cond)
    return output._replace(u=output.u.primal), output.u.tangent
