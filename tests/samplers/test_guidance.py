import pytest
import torch

from meanflow.samplers import (
    ClassifierFreeGuidance,
    FlowEuler,
    FlowHeun,
    FlowMapCTM,
    FlowMapEuler,
    FlowMapRestart,
    FlowSDE,
    NetworkGuidance,
)
from meanflow.types import Condition
from tests.gaussian import GaussianFlowMapNetwork, GaussianFlowNetwork

MEANS = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64).reshape(3, 1, 1, 1)  # the last one is the null label's
COND = Condition(y=torch.tensor([0, 1]))


def start_noise() -> torch.Tensor:
    return torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("omega", [2.5, 0.5, 0.0])
@pytest.mark.parametrize(
    ("sampler_class", "network_class"),
    [
        (FlowEuler, GaussianFlowNetwork),
        (FlowMapEuler, GaussianFlowMapNetwork),
    ],
)
def test_guided_prediction_extrapolates_from_the_null_label(sampler_class, network_class, omega):
    # The classes differ in their mean alone, on which v and u depend linearly: guidance moves the mean.
    e = start_noise()
    guided = sampler_class(num_steps=3, guidance=ClassifierFreeGuidance(omega))(network_class(MEANS, 0.5), e, COND)
    moved = MEANS.clone()
    moved[:2] = MEANS[2] + omega * (MEANS[:2] - MEANS[2])
    torch.testing.assert_close(guided, sampler_class(num_steps=3)(network_class(moved, 0.5), e, COND))


def test_guidance_is_one_call_on_the_condition_and_the_null_label():
    network = GaussianFlowNetwork(MEANS, 0.5)
    cond = COND._replace(omega=torch.tensor([1.0, 2.0]))
    FlowEuler(num_steps=1, guidance=ClassifierFreeGuidance(2.0))(network, start_noise(), cond)
    [(z, t, r, seen)] = network.calls
    assert z.shape[0] == t.shape[0] == r.shape[0] == 4
    assert seen.y.tolist() == [0, 1, 2, 2]
    assert seen.omega.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert seen.t_min is None


@pytest.mark.parametrize(
    ("omega", "interval", "guided"),
    [
        (1.0, (0.0, 1.0), []),
        (2.0, (0.0, 1.0), [1.0, 0.75, 0.5, 0.25]),
        (0.5, (0.0, 1.0), [1.0, 0.75, 0.5, 0.25]),
        (2.0, (0.25, 0.75), [0.75, 0.5, 0.25]),  # both ends belong to the interval
        (2.0, (0.3, 0.7), [0.5]),
        (2.0, (-1.0, 0.3), [0.25]),
        (2.0, (0.8, 2.0), [1.0]),
    ],
)
def test_steps_are_guided_by_the_time_at_which_they_start(omega, interval, guided):
    network = GaussianFlowMapNetwork(MEANS, 0.5)
    FlowMapEuler(4, guidance=ClassifierFreeGuidance(omega, interval))(network, start_noise(), COND)
    assert [call[1][0].item() for call in network.calls if len(call[1]) == 4] == guided


@pytest.mark.parametrize(
    ("sampler", "network_class", "nfe"),
    [
        (FlowEuler(4), GaussianFlowNetwork, 4),
        (FlowEuler(4, guidance=ClassifierFreeGuidance(2.0, (0.3, 0.8))), GaussianFlowNetwork, 6),
        (FlowHeun(4), GaussianFlowNetwork, 7),
        (FlowHeun(4, guidance=ClassifierFreeGuidance(2.0, (0.0, 0.5))), GaussianFlowNetwork, 10),
        (FlowMapEuler(4, shift=1.5, guidance=ClassifierFreeGuidance(2.0)), GaussianFlowMapNetwork, 8),
        (FlowMapRestart(3), GaussianFlowMapNetwork, 3),
        (FlowMapCTM(3, guidance=ClassifierFreeGuidance(2.0, (0.0, 0.5))), GaussianFlowMapNetwork, 4),
        (FlowSDE(4, guidance=ClassifierFreeGuidance(2.0, (0.3, 1.0))), GaussianFlowNetwork, 7),
    ],
)
def test_nfe_counts_what_the_network_evaluates(sampler, network_class, nfe):
    network = network_class(MEANS, 0.5)
    e = start_noise()
    sampler(network, e, COND, e.new_zeros(sampler.num_noises, *e.shape) if sampler.num_noises else None)
    assert sampler.nfe == nfe == sum(len(call[1]) for call in network.calls) / len(e)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"omega": -0.5}, "omega must be a number, at least 0 and finite .*, got -0.5"),
        ({"omega": float("nan")}, "omega must be .*, got nan"),
        ({"omega": float("inf")}, "omega must be .*, got inf"),
        ({"omega": "high"}, "omega must be a number, .*, got 'high'"),
        ({"interval": (0.8, 0.3)}, r"interval must be \[t_min, t_max\] with t_min <= t_max, got \(0.8, 0.3\)"),
        ({"interval": (0.0, float("nan"))}, "interval must be"),
        ({"interval": [0.5]}, r"got \[0.5\]"),
        ({"interval": 0.5}, "got 0.5"),
    ],
)
@pytest.mark.parametrize("cls", [ClassifierFreeGuidance, NetworkGuidance])
def test_bad_arguments(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)
