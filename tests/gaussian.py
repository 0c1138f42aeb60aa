"""Gaussian data on the linear path: the case in which the velocity and the exact flow map are known.

Data ``x ~ N(mean, std^2)``, independent in every dimension, and noise ``e ~ N(0, 1)`` give the marginal
``z_t ~ N((1 - t) mean, s(t)^2)`` with ``s(t)^2 = (1 - t)^2 std^2 + t^2``. The flow keeps every point at the same number
of standard deviations ``w = (z_t - (1 - t) mean) / s(t)`` from the mean, so all of the following hold exactly::

    flow map    z_r   = (1 - r) mean + s(r) w
    velocity    v     = -mean + s'(t) w                                     s'(t) = (t - (1 - t) std^2) / s(t)
    average     u     = (z_t - z_r) / (t - r) = -mean + q / (s(t) + s(r)) w      q = t + r - (2 - t - r) std^2
    derivative  du_dt = [(1 + std^2) / (s(t) + s(r)) - q s'(t) / (s(t) + s(r))^2] w

``u`` and ``du_dt`` in this form have no division by ``t - r``: they hold at ``r = t`` too, where ``u = v``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from meanflow.dual import Dual, primal
from meanflow.interpolant import expand_times
from meanflow.types import Condition, FlowMapOutput, FlowOutput


class GaussianFlow:
    """The exact flow of Gaussian data, in float64.

    States are ``(B, ...)``, times ``(B,)``.

    Args:
        mean: Mean of the data: a number or a tensor that broadcasts over states.
        std: Standard deviation of the data, above 0: a number or a tensor that broadcasts over states.
    """

    def __init__(self, mean: float | Tensor, std: float | Tensor) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.std = torch.as_tensor(std, dtype=torch.float64)

    def scale(self, t: Tensor) -> Tensor:
        """Standard deviation ``s(t)`` of ``z_t``."""
        return ((1 - t).square() * self.std.square() + t.square()).sqrt()

    def d_scale(self, t: Tensor) -> Tensor:
        """Derivative ``s'(t)``."""
        return (t - (1 - t) * self.std.square()) / self.scale(t)

    def standardize(self, z: Tensor, t: Tensor) -> Tensor:
        """Distance ``w`` from the mean in standard deviations; ``t`` broadcasts over ``z``."""
        return (z - (1 - t) * self.mean) / self.scale(t)

    def flow_map(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Exact state at time ``r`` of the trajectory through ``z`` at time ``t``."""
        z, t, r = _float64(z, t, r)
        return (1 - r) * self.mean + self.scale(r) * self.standardize(z, t)

    def v(self, z: Tensor, t: Tensor) -> Tensor:
        """Velocity field."""
        z, t = _float64(z, t)
        return -self.mean + self.d_scale(t) * self.standardize(z, t)

    def u(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Average velocity over ``[r, t]``."""
        z, t, r = _float64(z, t, r)
        return -self.mean + self._secant(t, r) / (self.scale(t) + self.scale(r)) * self.standardize(z, t)

    def du_dt(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Total derivative of ``u`` along the flow, ``r`` fixed."""
        z, t, r = _float64(z, t, r)
        scales = self.scale(t) + self.scale(r)
        rate = (1 + self.std.square()) / scales - self._secant(t, r) * self.d_scale(t) / scales.square()
        return rate * self.standardize(z, t)

    def du_dz(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Partial derivative of ``u`` in the state (diagonal; it does not depend on the state)."""
        _, t, r = _float64(z, t, r)
        return self._secant(t, r) / ((self.scale(t) + self.scale(r)) * self.scale(t))

    def _secant(self, t: Tensor, r: Tensor) -> Tensor:
        """``q = (s(t)^2 - s(r)^2) / (t - r)``."""
        return t + r - (2 - t - r) * self.std.square()


def _float64(z: Tensor, *times: Tensor) -> tuple[Tensor, ...]:
    return z.double(), *(expand_times(t.double(), z) for t in times)


class _GaussianNetwork:
    """Gaussian data of one mean per class, in the form of a network.

    Args:
        means: Means ``(num_classes + 1, C, H, W)``; the last one belongs to the null label.
        std: Standard deviation of every class.

    Attributes:
        calls: The arguments ``(z_t, t, r, cond)`` of every call so far.
    """

    takes_guidance = False
    sampling_arguments: Mapping[str, str] = MappingProxyType({})

    def __init__(self, means: Tensor, std: float) -> None:
        self.means = means
        self.std = std
        self.num_classes = means.shape[0] - 1
        self.null_label = self.num_classes
        self.in_channels = means.shape[1]
        self.input_size = means.shape[2]
        self.calls: list[tuple] = []

    def flow(self, y: Tensor) -> GaussianFlow:
        """The exact flow of a batch of labels ``(B,)``."""
        return GaussianFlow(self.means[y], self.std)


class GaussianFlowNetwork(_GaussianNetwork):
    """The exact velocity as a flow network."""

    output = FlowOutput
    output_field = "v"

    def __call__(self, z_t: Tensor, t: Tensor, r: Tensor, cond: Condition) -> FlowOutput:
        self.calls.append((z_t, t, r, cond))
        return FlowOutput(v=self.flow(cond.y).v(z_t, t))


class GaussianFlowMapNetwork(_GaussianNetwork):
    """The exact average velocity as a flow map network; called on a dual state it returns a dual."""

    output = FlowMapOutput
    output_field = "u"

    def __call__(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition) -> FlowMapOutput:
        self.calls.append((z_t, t, r, cond))
        flow = self.flow(cond.y)
        z, time = primal(z_t), primal(t)
        u: Tensor | Dual = flow.u(z, time, r)
        if isinstance(z_t, Dual):
            dt = expand_times(t.tangent if isinstance(t, Dual) else torch.zeros_like(time), z)
            # du_dt is the derivative along (v, 1); what (dz, dt) has beyond dt * (v, 1) moves z alone.
            off_flow = z_t.tangent - flow.v(z, time) * dt
            u = Dual(u, flow.du_dt(z, time, r) * dt + flow.du_dz(z, time, r) * off_flow)
        return FlowMapOutput(u=u, logvar=torch.zeros_like(time))
