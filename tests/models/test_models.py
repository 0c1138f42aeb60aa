import copy
import json
import pickle

import pytest
import torch

from meanflow import models
from tests.networks import TINY, aligned_sit, dmf, imf, sit


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


BACKBONE = (
    "input_size patch_size in_channels hidden_size depth num_heads mlp_ratio num_classes qk_norm attention "
    "activation_checkpointing"
)
KEYS = {
    "SiT": BACKBONE,
    "AlignedSiT": f"{BACKBONE} alignment_depth alignment_dims projector_dim",
    "DMFTransformer": f"{BACKBONE} dmf_depth logvar",
    "IMFTransformer": "input_size patch_size in_channels hidden_size depth num_heads mlp_ratio num_classes "
    "aux_head_depth num_tokens v_heads attention activation_checkpointing",
}


@pytest.mark.parametrize("network", [sit(), aligned_sit(), dmf(), imf()], ids=lambda network: type(network).__name__)
def test_config_lists_every_argument_in_the_order_of_checkpoints(network):
    assert list(network.config) == KEYS[type(network).__name__].split()


def test_config_has_arguments_and_defaults():
    config = dmf().config
    assert {key: config[key] for key in TINY} == TINY
    assert (config["dmf_depth"], config["logvar"], config["qk_norm"], config["attention"]) == (2, True, False, "sdpa")
    assert aligned_sit().config["alignment_dims"] == [6, 4]


def test_a_copy_has_the_config_of_its_original():
    network = dmf(qk_norm=True)
    assert copy.deepcopy(network).config == network.config
    assert pickle.loads(pickle.dumps(network)).config == network.config


def test_config_of_an_official_size():
    with torch.device("meta"):
        config = models.IMFTransformer.from_size("M/2", in_channels=3).config
    assert (config["depth"], config["hidden_size"], config["num_heads"], config["in_channels"]) == (24, 768, 12, 3)


def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="width"):
        models.SiT(width=3)
    with pytest.raises(ValueError, match=r"the configuration of network SiT does not fit: .*width"):
        models.build({"name": "SiT", "width": 3})


def test_build_leaves_its_argument_alone():
    config = {"name": "SiT", **sit().config}
    models.build(config)
    assert config["name"] == "SiT"


@pytest.mark.parametrize("config", [{"name": "UNet"}, {}])
def test_unknown_names_are_answered_with_the_known_ones(config):
    names = r"\['AlignedSiT', 'DMFTransformer', 'IMFTransformer', 'SiT'\]"
    with pytest.raises(ValueError, match=f"network name must be one of {names}"):
        models.build(config)
