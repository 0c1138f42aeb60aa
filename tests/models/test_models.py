import json

import pytest

from meanflow import models
from tests.networks import aligned_sit, dmf, imf, sit


@pytest.mark.parametrize(
    "network",
    [
        sit(),
        aligned_sit(qk_norm=True),
        dmf(),
        dmf(qk_norm=True, logvar=False, attention="reference", activation_checkpointing=True),
        imf(),
        imf(v_heads=False, aux_head_depth=2, attention="reference", activation_checkpointing=True),
    ],
)
def test_config_builds_an_equal_network(network):
    config = {"name": type(network).__name__, **network.config}
    again = models.build(json.loads(json.dumps(config)))  # it is written to files
    assert type(again) is type(network)
    assert again.config == network.config
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    again.load_state_dict(network.state_dict())


def test_build_leaves_its_argument_alone():
    config = {"name": "SiT", **sit().config}
    models.build(config)
    assert config["name"] == "SiT"


@pytest.mark.parametrize("config", [{"name": "UNet"}, {}])
def test_unknown_names_are_answered_with_the_known_ones(config):
    names = r"\['AlignedSiT', 'DMFTransformer', 'IMFTransformer', 'SiT'\]"
    with pytest.raises(ValueError, match=f"network name must be one of {names}"):
        models.build(config)
