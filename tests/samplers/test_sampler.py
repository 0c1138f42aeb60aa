"""Properties of all samplers: data types, injected noise, configuration, errors."""

import pytest
import torch
import yaml

from meanflow.interpolant import CosinePath
from meanflow.samplers import (
    SAMPLERS,
    ClassifierFreeGuidance,
    FlowEuler,
    FlowHeun,
    FlowMapCTM,
    FlowMapCTMVP,
    FlowMapEuler,
    FlowMapRestart,
    FlowSDE,
    NetworkGuidance,
    build,
)
from meanflow.types import Condition
from tests.gaussian import GaussianFlowMapNetwork, GaussianFlowNetwork

MEANS = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
COND = Condition(y=torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("dtype", "time_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_network_sees_the_data_type_of_the_noise_and_the_result_is_float64(dtype, time_dtype):
    network = GaussianFlowNetwork(MEANS, 1.0)
    x = FlowEuler(num_steps=2)(network, torch.ones(3, 1, 2, 2, dtype=dtype), COND)
    assert x.dtype == torch.float64
    for z, t, r, _ in network.calls:
        assert (z.dtype, t.dtype, r.dtype) == (dtype, time_dtype, time_dtype)
        assert t.shape == r.shape == (3,)


def test_a_flow_is_called_at_equal_times_and_a_flow_map_at_the_ends_of_the_step():
    e = torch.ones(3, 1, 2, 2)
    flow, flow_map = GaussianFlowNetwork(MEANS, 1.0), GaussianFlowMapNetwork(MEANS, 1.0)
    FlowEuler(num_steps=2)(flow, e, COND)
    FlowMapEuler(num_steps=2)(flow_map, e, COND)
    assert [(t[0].item(), r[0].item()) for _, t, r, _ in flow.calls] == [(1.0, 1.0), (0.5, 0.5)]
    assert [(t[0].item(), r[0].item()) for _, t, r, _ in flow_map.calls] == [(1.0, 0.5), (0.5, 0.0)]


def test_nothing_is_tracked_by_autograd():
    weight = torch.ones(2, 1, 2, 2, requires_grad=True)
    assert not FlowEuler(num_steps=1)(GaussianFlowNetwork(weight, 1.0), torch.ones(3, 1, 2, 2), COND).requires_grad


@pytest.mark.parametrize(
    "sampler",
    [
        FlowEuler(4, shift=1.5, guidance=ClassifierFreeGuidance(2.0, (0.1, 0.9))),
        FlowHeun(3),
        FlowMapEuler(2, guidance=NetworkGuidance(7.5, (0.4, 0.65))),
        FlowMapRestart(2, CosinePath(), shift=1.2),
        FlowMapCTM(3, gamma=0.5),
        FlowMapCTMVP(3, "cosine", gamma=0.5, guidance=ClassifierFreeGuidance(1.5)),
        FlowSDE(5),
        FlowSDE(5, "cosine", "elbo", gamma=0.7, t_start=0.9, shift=1.5),
    ],
)
def test_config_builds_the_same_sampler(sampler):
    again = build(yaml.safe_load(yaml.safe_dump(sampler.config)))
    assert type(again) is type(sampler)
    assert again.config == sampler.config
    assert again.times == sampler.times
    assert type(again.guidance) is type(sampler.guidance)
    assert repr(again) == repr(sampler)


def test_replace_returns_a_new_sampler():
    sampler = FlowMapRestart(2, "cosine", shift=1.5)
    replaced = sampler.replace(num_steps=4)
    assert replaced.config == sampler.config | {"num_steps": 4}
    assert (sampler.num_steps, sampler.num_noises, replaced.num_noises) == (2, 1, 3)
    assert isinstance(replaced.interpolant, CosinePath)


def test_replace_takes_guidance_whole_or_in_part():
    sampler = FlowMapEuler(1, guidance=NetworkGuidance(7.5, (0.4, 0.65)))
    guidance = sampler.config["guidance"]
    for change in ({"omega": 2.0}, {"interval": [0.1, 0.9]}, {"omega": 2.0, "interval": [0.1, 0.9]}):
        replaced = sampler.replace(guidance=change)
        assert isinstance(replaced.guidance, NetworkGuidance)
        assert replaced.config == sampler.config | {"guidance": guidance | change}
    assert sampler.replace(num_steps=4).config == sampler.config | {"num_steps": 4}
    free = ClassifierFreeGuidance(3.0)
    assert sampler.replace(guidance=free).guidance is free
    assert sampler.replace(guidance=None).guidance.omega == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "Eular", "num_steps": 1}, r"sampler name must be one of \[.*\], got 'Eular'"),
        ({"num_steps": 1}, "got None"),
        ({"name": "FlowEuler"}, "sampler FlowEuler needs num_steps"),
        (
            {"name": "FlowEuler", "num_steps": 1, "guidance": {"name": "CFG"}},
            r"guidance name must be one of \[.*\], got 'CFG'",
        ),
        (
            {"name": "FlowEuler", "num_steps": 1, "guidance": {"scale": 2}},
            "ClassifierFreeGuidance has no argument 'scale'",
        ),
        ({"name": "FlowEuler", "num_steps": 1, "cfg_scale": 2.0}, "FlowEuler has no argument 'cfg_scale'; it has"),
        (
            {"name": "FlowMapRestart", "num_steps": 1, "interpolant": "vp"},
            r"interpolant must be one of \['cosine', 'linear'\]",
        ),
    ],
)
def test_build_says_what_is_wrong(config, message):
    with pytest.raises(ValueError, match=message):
        build(config)


def test_registry_has_class_names():
    assert all(cls.__name__ == name for name, cls in SAMPLERS.items())
    assert sorted(SAMPLERS) == [
        "FlowEuler",
        "FlowHeun",
        "FlowMapCTM",
        "FlowMapCTMVP",
        "FlowMapEuler",
        "FlowMapRestart",
        "FlowSDE",
    ]


@pytest.mark.parametrize("noise", [None, torch.zeros(3, 1, 2, 2), torch.zeros(1, 3, 1, 2, 2)])
def test_missing_or_misshapen_noise_is_refused(noise):
    network = GaussianFlowMapNetwork(MEANS, 1.0)
    with pytest.raises(ValueError, match=r"noise must have shape .* = \(2, 3, 1, 2, 2\) for FlowMapRestart"):
        FlowMapRestart(num_steps=3)(network, torch.zeros(3, 1, 2, 2), COND, noise)


def test_noise_that_nobody_uses_is_refused():
    with pytest.raises(ValueError, match="noise must have shape"):
        FlowEuler(2)(GaussianFlowNetwork(MEANS, 1.0), torch.zeros(3, 1, 2, 2), COND, torch.zeros(1, 3, 1, 2, 2))


def test_wrong_kind_of_network_is_refused():
    with pytest.raises(
        ValueError, match=r"FlowEuler needs a network that returns 'v', got GaussianFlowMapNetwork, which returns 'u'"
    ):
        FlowEuler(num_steps=1)(GaussianFlowMapNetwork(MEANS, 1.0), torch.zeros(3, 1, 2, 2), COND)


def test_wrong_number_of_labels_is_refused():
    with pytest.raises(ValueError, match=r"one label per sample, shape \(2,\), got \(3,\)"):
        FlowEuler(num_steps=1)(GaussianFlowNetwork(MEANS, 1.0), torch.zeros(2, 1, 2, 2), COND)
