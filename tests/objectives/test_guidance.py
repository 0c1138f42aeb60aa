"""Guided targets on a network with known velocities: the exact flow of Gaussians with one mean per class."""

from typing import Any

import pytest
import torch

from meanflow.objectives.guidance import Distillation, Guidance, ModelGuidance, NoGuidance, Query, plan_evaluations
from tests.duals import assert_equal_to_rounding, normal
from tests.gaussian import GaussianFlowMapNetwork, GaussianFlowNetwork

MEANS = normal(4, 1, 2, 2)
NULL = 3
OMEGA, T_MIN, T_MAX = 0.6, 0.25, 0.75
T = torch.tensor([0.1, T_MIN, 0.5, T_MAX, 0.9, 0.5], dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, NULL])
DROPPED = torch.tensor([False, False, False, False, False, True])
GUIDED = [False, True, True, True, False, False]
NOTHING = torch.empty(0, 1, 2, 2, dtype=torch.float64)
QUERY = Query(normal(6, 1, 2, 2, seed=1), T, normal(6, 1, 2, 2, seed=2), Y, NOTHING)


def targets(guidance: Guidance, network: Any, query: Query = QUERY, dropped: torch.Tensor = DROPPED) -> torch.Tensor:
    plan = guidance.plan(query.t, dropped, num_known=len(query.v_cond))
    return guidance.targets(network, query, plan)


def velocities() -> tuple[torch.Tensor, torch.Tensor]:
    network = GaussianFlowNetwork(MEANS, 0.5)
    return network.flow(Y).v(QUERY.z_t, T), network.flow(torch.full_like(Y, NULL)).v(QUERY.z_t, T)


def test_no_guidance_returns_the_velocities_of_the_samples():
    assert targets(NoGuidance(), None) is QUERY.v
    assert not NoGuidance().guided(T, DROPPED).any()


@pytest.mark.parametrize(
    "guidance",
    [
        ModelGuidance(OMEGA, (T_MIN, T_MAX)),
        Distillation(GaussianFlowNetwork(MEANS, 0.5), OMEGA, (T_MIN, T_MAX)),
    ],
)
def test_the_interval_is_closed_and_dropped_labels_are_not_guided(guidance):
    for t in (T, T.float()):  # both ends are float32 numbers
        assert guidance.guided(t, DROPPED).tolist() == GUIDED


@pytest.mark.parametrize("end", [0.3, 0.7])
def test_an_end_that_is_no_binary_fraction_is_inside_too(end):
    t = torch.full((6,), end)
    guidance = ModelGuidance(OMEGA, (end, end))
    assert guidance.guided(t, DROPPED).tolist() == (~DROPPED).tolist()


def test_model_guidance():
    network = GaussianFlowMapNetwork(MEANS, 0.5)
    v_cond, v_uncond = velocities()
    v_g = targets(ModelGuidance(OMEGA, (T_MIN, T_MAX)), network)
    mask = torch.tensor(GUIDED)[:, None, None, None]
    assert_equal_to_rounding(v_g, torch.where(mask, QUERY.v + OMEGA * (v_cond - v_uncond), QUERY.v), relative=1e-14)
    for z_t, t, r, _ in network.calls:
        assert torch.equal(t, r)
        assert len(z_t) == 6  # three samples, with and without the class


def test_model_guidance_takes_a_conditional_velocity_that_is_known():
    network = GaussianFlowMapNetwork(MEANS, 0.5)
    known = normal(2, 1, 2, 2, seed=3)  # of the first two samples
    v_cond, v_uncond = velocities()
    v_g = targets(ModelGuidance(OMEGA, (T_MIN, T_MAX)), network, QUERY._replace(v_cond=known.clone().requires_grad_()))
    mask = torch.tensor(GUIDED)[:, None, None, None]
    expected = torch.where(mask, QUERY.v + OMEGA * (torch.cat([known, v_cond[2:]]) - v_uncond), QUERY.v)
    assert_equal_to_rounding(v_g, expected, relative=1e-14)
    assert not v_g.requires_grad
    assert [call[3].y.tolist() for call in network.calls] == [[2, 0] + [NULL] * 3]


def test_distillation():
    teacher = GaussianFlowNetwork(MEANS, 0.5)
    v_cond, v_uncond = velocities()
    v_g = targets(Distillation(teacher, OMEGA, (T_MIN, T_MAX)), None)
    mask = torch.tensor(GUIDED)[:, None, None, None]
    assert_equal_to_rounding(v_g, torch.where(mask, v_uncond + OMEGA * (v_cond - v_uncond), v_cond), relative=1e-14)
    assert [len(call[0]) for call in teacher.calls] == [6 + 3]


@pytest.mark.parametrize("kind", [ModelGuidance, Distillation])
def test_padding_changes_nothing_and_numbers_of_evaluations_are_few(kind):
    means = (MEANS, 0.5)
    if kind is ModelGuidance:
        guidance, network = ModelGuidance(OMEGA, (T_MIN, T_MAX)), GaussianFlowMapNetwork(*means)
    else:
        guidance, network = Distillation(GaussianFlowNetwork(*means), OMEGA, (T_MIN, T_MAX)), None
    exact = targets(guidance, network)
    padded = guidance.targets(network, QUERY, guidance.plan(T, DROPPED, batch_size=32))
    assert_equal_to_rounding(padded, exact, relative=1e-14)
    exact_size, padded_size = (len(call[0]) for call in (network or guidance.teacher).calls)
    assert exact_size in (6, 9)
    assert padded_size == {6: 8, 9: 12}[exact_size]


def test_every_sample_finds_its_own_answers():
    with_label = torch.tensor([False, True, False, True, False])
    guided = torch.tensor([True, True, False, False, True])
    plan = plan_evaluations(with_label, guided, known=torch.tensor([4, 0]), batch_size=16)
    assert plan.samples.tolist() == [1, 3, 0, 1, 4, 0]  # with label; without; padding
    assert plan.null.tolist() == [False, False, True, True, True, True]
    sources = torch.cat([torch.tensor([4, 0]), plan.samples])
    assert sources[plan.cond][[0, 1, 3, 4]].tolist() == [0, 1, 3, 4]
    assert plan.cond[[0, 1, 3, 4]].tolist() == [1, 2, 3, 0]
    assert plan.uncond[guided].tolist() == [4, 5, 6]


def test_targets_have_no_graph_even_if_the_network_has():
    means = MEANS.clone().requires_grad_()
    v_g = targets(ModelGuidance(OMEGA), GaussianFlowMapNetwork(means, 0.5))
    assert not v_g.requires_grad
    v_g = targets(Distillation(GaussianFlowNetwork(means, 0.5), OMEGA), None)
    assert not v_g.requires_grad


def test_arguments_are_left_alone():
    before = [a.clone() for a in QUERY]
    targets(ModelGuidance(OMEGA), GaussianFlowMapNetwork(MEANS, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(before, QUERY, strict=True))


@pytest.mark.parametrize("interval", [(0.6, 0.5), (0.5,), (0.1, 0.2, 0.3), (0.0, float("nan"))])
def test_impossible_intervals_are_refused(interval):
    with pytest.raises(ValueError, match=r"guidance.interval must be \[t_min, t_max\] with t_min <= t_max, got \["):
        ModelGuidance(OMEGA, interval)


def test_an_interval_may_reach_beyond_the_times():
    t, dropped = torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3, dtype=torch.bool)
    assert ModelGuidance(OMEGA, (-0.1, 1.1)).guided(t, dropped).all()


def test_the_teacher_must_be_a_flow():
    with pytest.raises(ValueError, match=r"guidance\.teacher must be a flow network, got .* FlowMapOutput"):
        Distillation(GaussianFlowMapNetwork(MEANS, 0.5), OMEGA)


@pytest.mark.parametrize("omega", [float("nan"), float("inf")])
def test_a_scale_is_finite(omega):
    with pytest.raises(ValueError, match=r"guidance\.omega must be finite"):
        ModelGuidance(omega)


@pytest.mark.parametrize("omega", [0.5, 0.0, -1.0])
def test_any_finite_scale_extrapolates_or_interpolates(omega):
    v_cond, v_uncond = velocities()
    expected = torch.where(~DROPPED[:, None, None, None], v_uncond + omega * (v_cond - v_uncond), v_cond)
    v_g = targets(Distillation(GaussianFlowNetwork(MEANS, 0.5), omega), None)
    torch.testing.assert_close(v_g, expected, rtol=1e-12, atol=1e-12)
