"""Every network on duals against ``torch.func.jvp`` over its plain forward: value, derivative, parameter gradients."""

import pytest
import torch

from meanflow.dual import Dual
from meanflow.objectives.derivative import value_and_derivative
from meanflow.types import Condition
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, central_difference, jvp, normal
from tests.gaussian import GaussianFlowMapNetwork
from tests.networks import aligned_sit, dmf, inputs, plain_definition, sit

VARIANTS = [
    pytest.param({"qk_norm": qk_norm, "activation_checkpointing": checkpointing, "attention": attention})
    for qk_norm in (False, True)
    for checkpointing in (False, True)
    for attention in ("reference", "sdpa")
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_flow_map_network(variant):
    network = dmf(**variant)
    z_t, t, r, cond, v = inputs()
    plain = plain_definition(network)
    output, du_dt = value_and_derivative(network, z_t, t, r, cond, v)
    u, derivative = jvp(
        lambda z_t, t, r: plain(z_t, t, r, cond).u, (z_t, t, r), (v, torch.ones_like(t), torch.zeros_like(r))
    )
    assert not du_dt.requires_grad
    assert_equal_to_rounding(output.u, u)
    assert_equal_to_rounding(du_dt, derivative)
    assert_equal_to_rounding(output.logvar, plain(z_t, t, r, cond).logvar)

    weight, parameters = normal(*u.shape, seed=99), list(network.parameters())
    loss = (weight * output.u).sum() + output.logvar.square().sum()
    expected = plain(z_t, t, r, cond)
    expected = (weight * expected.u).sum() + expected.logvar.square().sum()
    for actual, truth in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert_equal_to_rounding(actual, truth)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("make", [sit, aligned_sit])
def test_flow_networks(make, variant):
    network = make(**variant)
    plain = plain_definition(network)
    z_t, t, r, cond, v = inputs()
    parameters = [p for name, p in network.named_parameters() if not name.startswith("projectors.")]
    assert_dual_is_jvp(
        lambda z_t, t: network(z_t, t, r, cond).v,
        (z_t, t),
        (v, torch.ones_like(t)),
        parameters,
        definition=lambda z_t, t: plain(z_t, t, r, cond).v,
    )


def test_features_of_a_dual_forward_are_those_of_the_plain_one_with_gradients():
    network = aligned_sit()
    z_t, t, r, cond, v = inputs()
    on_duals = network(Dual(z_t, v), Dual(t, torch.ones_like(t)), r, cond).features
    plain = network(z_t, t, r, cond).features
    assert [f.shape for f in plain] == [(4, 4, 6), (4, 4, 4)]
    for actual, expected in zip(on_duals, plain, strict=True):
        assert_equal_to_rounding(actual, expected)
        assert actual.requires_grad


def test_derivative_agrees_with_central_differences_along_the_flow():
    network = dmf(qk_norm=True)
    z_t, t, r, cond, v = inputs()
    t = 0.9 * t  # so that both sides of t are times
    with torch.no_grad():
        _, du_dt = value_and_derivative(network, z_t, t, r, cond, v)
        expected = central_difference(lambda z_t, t: network(z_t, t, r, cond).u, (z_t, t), (v, torch.ones_like(t)))
    assert_equal_to_rounding(du_dt, expected, relative=1e-8)


def test_the_derivative_is_not_tracked_though_the_velocity_is():
    network = dmf()
    z_t, t, r, cond, v = inputs()
    output, du_dt = value_and_derivative(network, z_t, t, r, cond, v.requires_grad_())
    assert output.u.requires_grad
    assert not du_dt.requires_grad
    output.u.sum().backward()
    assert v.grad is None


def test_exact_flow_map_has_the_exact_derivative():
    network = GaussianFlowMapNetwork(normal(3, 1, 2, 2), std=0.4)
    z_t, t, r, _, _ = inputs(channels=1, size=2)
    cond = Condition(torch.tensor([0, 1, 2, 2]))
    flow = network.flow(cond.y)
    output, du_dt = value_and_derivative(network, z_t, t, r, cond, flow.v(z_t, t))
    assert_equal_to_rounding(output.u, flow.u(z_t, t, r))
    assert_equal_to_rounding(du_dt, flow.du_dt(z_t, t, r))
    # MeanFlow identity.
    h = (t - r)[:, None, None, None]
    assert_equal_to_rounding(output.u, flow.v(z_t, t) - h * du_dt)
