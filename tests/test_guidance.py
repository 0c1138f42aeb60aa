"""Guided targets on a network with known velocities: the exact flow of Gaussians with one mean per class."""

import pytest
import torch

from meanflow.guidance import Distillation, ModelGuidance, NoGuidance, Query
from tests.duals import assert_equal_to_rounding, normal
from tests.gaussian import GaussianFlowMapNetwork, GaussianFlowNetwork

MEANS = normal(4, 1, 2, 2)
NULL = 3
OMEGA, T_MIN, T_MAX = 0.6, 0.25, 0.75
T = torch.tensor([0.1, T_MIN, 0.5, T_MAX, 0.9, 0.5], dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, NULL])
DROPPED = torch.tensor([False, False, False, False, False, True])
GUIDED = [False, True, True, True, False, False]
QUERY = Query(normal(6, 1, 2, 2, seed=1), T, normal(6, 1, 2, 2, seed=2), Y, DROPPED)


def velocities() -> tuple[torch.Tensor, torch.Tensor]:
    network = GaussianFlowNetwork(MEANS, 0.5)
    return network.flow(Y).v(QUERY.z_t, T), network.flow(torch.full_like(Y, NULL)).v(QUERY.z_t, T)


def test_no_guidance_returns_the_velocities_of_the_samples():
    (v_g,) = NoGuidance().targets(None, [QUERY])
    assert v_g is QUERY.v
    assert not NoGuidance().guided(QUERY).any()


@pytest.mark.parametrize("guidance", [ModelGuidance(OMEGA, T_MIN, T_MAX), Distillation(None, OMEGA, T_MIN, T_MAX)])
def test_the_interval_is_closed_and_dropped_labels_are_not_guided(guidance):
    assert guidance.guided(QUERY).tolist() == GUIDED
    single = QUERY._replace(t=T.float())  # both ends are float32 numbers
    assert guidance.guided(single).tolist() == GUIDED


@pytest.mark.parametrize("end", [0.3, 0.7])
def test_an_end_that_is_no_binary_fraction_is_inside_too(end):
    t = torch.full((6,), end)
    guidance = ModelGuidance(OMEGA, end, end)
    assert guidance.guided(QUERY._replace(t=t)).tolist() == (~DROPPED).tolist()


def test_model_guidance():
    network = GaussianFlowMapNetwork(MEANS, 0.5)
    v_cond, v_uncond = velocities()
    (v_g,) = ModelGuidance(OMEGA, T_MIN, T_MAX).targets(network, [QUERY])
    mask = torch.tensor(GUIDED)[:, None, None, None]
    assert_equal_to_rounding(v_g, torch.where(mask, QUERY.v + OMEGA * (v_cond - v_uncond), QUERY.v), relative=1e-14)
    for z_t, t, r, _ in network.calls:
        assert torch.equal(t, r)
        assert len(z_t) == 6  # three samples, with and without the class


def test_model_guidance_takes_a_conditional_velocity_that_is_known():
    network = GaussianFlowMapNetwork(MEANS, 0.5)
    known = normal(6, 1, 2, 2, seed=3)
    _, v_uncond = velocities()
    (v_g,) = ModelGuidance(OMEGA, T_MIN, T_MAX).targets(network, [QUERY._replace(v_cond=known.requires_grad_())])
    mask = torch.tensor(GUIDED)[:, None, None, None]
    expected = torch.where(mask, QUERY.v + OMEGA * (known.detach() - v_uncond), QUERY.v)
    assert_equal_to_rounding(v_g, expected, relative=1e-14)
    assert not v_g.requires_grad
    assert [call[3].y.tolist() for call in network.calls] == [[NULL] * 3]


def test_distillation():
    teacher = GaussianFlowNetwork(MEANS, 0.5)
    v_cond, v_uncond = velocities()
    (v_g,) = Distillation(teacher, OMEGA, T_MIN, T_MAX).targets(None, [QUERY])
    mask = torch.tensor(GUIDED)[:, None, None, None]
    assert_equal_to_rounding(v_g, torch.where(mask, v_uncond + OMEGA * (v_cond - v_uncond), v_cond), relative=1e-14)
    assert [len(call[0]) for call in teacher.calls] == [6 + 3]


def test_several_queries_are_one_batch_and_keep_apart():
    other = Query(*(a.flip(0) for a in QUERY[:-1]))
    for guidance, network in (
        (ModelGuidance(OMEGA, T_MIN, T_MAX), GaussianFlowMapNetwork(MEANS, 0.5)),
        (Distillation(GaussianFlowNetwork(MEANS, 0.5), OMEGA, T_MIN, T_MAX), None),
    ):
        both = guidance.targets(network, [QUERY, other])
        calls = (network or guidance.teacher).calls
        assert len(calls) == 1
        for together, query in zip(both, (QUERY, other), strict=True):
            assert torch.equal(together, guidance.targets(network, [query])[0])


def test_targets_have_no_graph_even_if_the_network_has():
    means = MEANS.clone().requires_grad_()
    (v_g,) = ModelGuidance(OMEGA).targets(GaussianFlowMapNetwork(means, 0.5), [QUERY])
    assert not v_g.requires_grad
    (v_g,) = Distillation(GaussianFlowNetwork(means, 0.5), OMEGA).targets(None, [QUERY])
    assert not v_g.requires_grad


def test_arguments_are_left_alone():
    before = [a.clone() for a in QUERY[:-1]]
    ModelGuidance(OMEGA).targets(GaussianFlowMapNetwork(MEANS, 0.5), [QUERY])
    assert all(torch.equal(a, b) for a, b in zip(before, QUERY[:-1], strict=True))


@pytest.mark.parametrize(("t_min", "t_max"), [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_impossible_intervals_are_refused(t_min, t_max):
    with pytest.raises(ValueError, match=rf"0 <= t_min <= t_max <= 1, got \[{t_min}, {t_max}\]"):
        ModelGuidance(OMEGA, t_min, t_max)
