"""The closed forms agree with derivatives and integrals of one another."""

import pytest
import torch
from torch.autograd.functional import jvp

from meanflow.dual import Dual
from meanflow.types import Condition
from tests.gaussian import GaussianFlow, GaussianFlowMapNetwork

FLOW = GaussianFlow(mean=torch.tensor([[1.5], [-0.3]]), std=torch.tensor([[0.4], [2.0]]))


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 2, 1, generator=generator, dtype=torch.float64)
    t = torch.tensor([1.0, 0.9, 0.5, 0.3, 0.2], dtype=torch.float64)
    r = torch.tensor([0.0, 0.2, 0.5, 0.1, 0.0], dtype=torch.float64)
    return z, t, r


def test_flow_map_follows_the_velocity(states):
    z, t, r = states
    z_r, dz_dr = jvp(lambda s: FLOW.flow_map(z, t, s), (r,), (torch.ones_like(r),))
    torch.testing.assert_close(dz_dr, FLOW.v(z_r, r), rtol=0, atol=1e-12)
    torch.testing.assert_close(FLOW.flow_map(z, t, t), z, rtol=0, atol=1e-14)


def test_one_step_of_u_is_the_flow_map(states):
    z, t, r = states
    one_step = z - (t - r)[:, None, None] * FLOW.u(z, t, r)
    torch.testing.assert_close(one_step, FLOW.flow_map(z, t, r), rtol=0, atol=1e-14)


def test_u_is_v_where_the_times_are_equal(states):
    z, t, _ = states
    torch.testing.assert_close(FLOW.u(z, t, t), FLOW.v(z, t), rtol=0, atol=1e-14)


def test_du_dt_is_the_total_derivative_and_satisfies_the_meanflow_identity(states):
    z, t, r = states
    v, du_dt = FLOW.v(z, t), FLOW.du_dt(z, t, r)
    _, derivative = jvp(FLOW.u, (z, t, r), (v, torch.ones_like(t), torch.zeros_like(r)))
    torch.testing.assert_close(du_dt, derivative, rtol=0, atol=1e-12)
    torch.testing.assert_close(FLOW.u(z, t, r), v - (t - r)[:, None, None] * du_dt, rtol=0, atol=1e-13)


def test_network_on_duals_returns_the_derivative_along_the_tangents():
    network = GaussianFlowMapNetwork(means=torch.tensor([[[[1.0]]], [[[-1.0]]]]), std=0.5)
    z, t, r = torch.ones(2, 1, 1, 1).double(), torch.tensor([0.8, 0.6]).double(), torch.tensor([0.1, 0.6]).double()
    cond = Condition(y=torch.tensor([0, network.null_label]))
    flow = network.flow(cond.y)

    u = network(Dual(z, flow.v(z, t)), Dual(t, torch.ones_like(t)), r, cond).u
    torch.testing.assert_close(u.primal, flow.u(z, t, r))
    torch.testing.assert_close(u.tangent, flow.du_dt(z, t, r))

    dz, dt = torch.full_like(z, 0.3), torch.tensor([2.0, -1.0]).double()
    u = network(Dual(z, dz), Dual(t, dt), r, cond).u
    _, derivative = jvp(lambda z, t: flow.u(z, t, r), (z, t), (dz, dt))
    torch.testing.assert_close(u.tangent, derivative)
