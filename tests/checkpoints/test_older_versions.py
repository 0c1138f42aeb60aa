"""Configurations of samplers that older versions recorded."""

import pytest

from meanflow import samplers
from meanflow.checkpoints.older_versions import present_config, present_sampler

OLD = {"num_steps": 3, "shift": 1.5, "omega": 2.0, "t_min": 0.2, "t_max": 0.8}


@pytest.mark.parametrize(
    ("old", "name", "guidance"),
    [
        ({"name": "FlowEuler"}, "FlowEuler", "ClassifierFreeGuidance"),
        ({"name": "FlowMapCTMVP", "interpolant": "cosine", "gamma": 0.5}, "FlowMapCTMVP", "ClassifierFreeGuidance"),
        ({"name": "IMFEuler"}, "FlowMapEuler", "NetworkGuidance"),
    ],
)
def test_scale_and_interval_become_guidance(old, name, guidance):
    sampler = samplers.build(present_sampler(old | OLD))
    kept = {key: value for key, value in old.items() if key != "name"} | {"num_steps": 3, "shift": 1.5}
    expected = {"name": name, "guidance": {"name": guidance, "omega": 2.0, "interval": [0.2, 0.8]}} | kept
    assert sampler.config == expected


def test_an_imf_sampler_without_a_scale_is_unguided():
    config = present_sampler({"name": "IMFEuler", "num_steps": 1})
    assert config["guidance"] == {"name": "NetworkGuidance", "omega": 1.0, "interval": [0.0, 1.0]}


def test_present_configurations_stay():
    config = samplers.FlowMapEuler(2, guidance=samplers.NetworkGuidance(2.0)).config
    assert present_sampler(config) == config
    assert present_sampler({"name": "FlowEuler", "num_steps": 64}) == {"name": "FlowEuler", "num_steps": 64}
    assert present_config({"network": 1, "sampler": config}) == {"network": 1, "sampler": config}
    assert present_config({"network": 1}) == {"network": 1}
