"""Sampling with a network that takes guidance as an input."""

import json

import pytest
import torch

from meanflow.samplers import FlowMapEuler, IMFEuler, build
from meanflow.types import Condition
from tests.duals import assert_equal_to_rounding, normal
from tests.networks import Recorded, imf

Y = torch.tensor([0, 4, 5])


def recorded() -> Recorded:
    network = Recorded(imf())
    network.num_classes, network.in_channels, network.input_size = 5, 3, 4
    return network


@pytest.mark.parametrize("sampler", [IMFEuler(1), IMFEuler(3, shift=1.5, omega=7.5, t_min=0.4, t_max=0.65)])
def test_config_builds_the_same_sampler(sampler):
    again = build(json.loads(json.dumps(sampler.config)))
    assert type(again) is IMFEuler
    assert again.config == sampler.config
    assert again.times == sampler.times
    assert again.condition == sampler.condition


def test_replace_keeps_what_the_network_is_told():
    sampler = IMFEuler(1, omega=7.5, t_min=0.4, t_max=0.65)
    replaced = sampler.replace(num_steps=4)
    assert replaced.config == sampler.config | {"num_steps": 4}
    assert sampler.replace(omega=2.0).config == sampler.config | {"omega": 2.0}


@pytest.mark.parametrize(("dtype", "time_dtype"), [(torch.float64, torch.float64), (torch.float32, torch.float32)])
def test_guidance_is_passed_to_the_network_at_one_evaluation_per_step(dtype, time_dtype):
    network = recorded()
    network.network.to(dtype)
    # The interval is not compared with the time of a step: all are told the same.
    sampler = IMFEuler(4, omega=7.5, t_min=0.4, t_max=0.65)
    sampler(network, normal(3, 3, 4, 4).to(dtype), Condition(Y, omega=torch.full((3,), 2.0)))
    assert sampler.nfe == 4
    assert sampler.num_noises == 0
    assert [call[3:] for call in network.calls] == [(Y.tolist(), [t] * 3) for t in (1.0, 0.75, 0.5, 0.25)]
    for cond, more in network.more:
        assert more == {"heads": "u"}
        for told, value in zip(cond[1:], (7.5, 0.4, 0.65), strict=True):
            assert torch.equal(told, torch.full((3,), value, dtype=time_dtype))


def test_samples_are_those_of_jumps_written_out():
    network, z = imf(), normal(3, 3, 4, 4)
    actual = IMFEuler(2, omega=4.0, t_min=0.2, t_max=0.9)(network, z, Condition(Y))
    cond = Condition(Y, *(torch.full((3,), value, dtype=torch.float64) for value in (4.0, 0.2, 0.9)))
    with torch.no_grad():
        for t, r in ((1.0, 0.5), (0.5, 0.0)):
            times = (torch.full((3,), time, dtype=torch.float64) for time in (t, r))
            z = z - (t - r) * network(z, *times, cond).u
    assert_equal_to_rounding(actual, z, relative=1e-13)


def test_the_v_head_is_not_evaluated():
    network = imf()
    evaluation = imf(v_heads=False)
    evaluation.load_state_dict({k: a for k, a in network.state_dict().items() if not k.startswith("v_heads.")})
    ran = []
    for module in (*network.v_heads, network.v_final_layer):
        module.register_forward_pre_hook(lambda *_: ran.append(True))
    e, cond = normal(3, 3, 4, 4), Condition(Y)
    assert torch.equal(IMFEuler(2, omega=3.0)(network, e, cond), IMFEuler(2, omega=3.0)(evaluation, e, cond))
    assert not ran


def test_a_sampler_without_guidance_inputs_is_refused_by_the_network():
    with pytest.raises(ValueError, match="needs omega, t_min and t_max in its condition"):
        FlowMapEuler(1)(imf(), normal(3, 3, 4, 4), Condition(Y))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"omega": 0.5}, "omega must be at least 1"),
        ({"t_min": 0.7, "t_max": 0.6}, "must satisfy 0 <= t_min <= t_max <= 1"),
    ],
)
def test_what_no_network_was_trained_on_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        IMFEuler(1, **arguments)
