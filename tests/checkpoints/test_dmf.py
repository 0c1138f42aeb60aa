"""Official SiT and DMF files: settings in the file, defaults, stated settings, and errors."""

from argparse import Namespace

import pytest
import torch

import meanflow
from meanflow.checkpoints import load_weights
from meanflow.checkpoints.dmf import NUM_HEADS
from meanflow.codecs.normalization import IMF, SCALE_0_18215
from meanflow.models import load_flow_weights
from tests.checkpoints import released


def save(path, network):
    torch.save(network.state_dict(), path)
    return path


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("network", "stated"),
    [
        (released.sit(), {"num_heads": 2}),
        (released.sit(qk_norm=True, mlp_ratio=2.7), {}),
        (released.sit(patch_size=4, in_channels=4, input_size=16), {"num_heads": 2}),
        (released.aligned_sit(), {"num_heads": 2}),
        (released.dmf(), {"num_heads": 2}),
        (released.dmf(qk_norm=True, dmf_depth=1), {"dmf_depth": 1}),
        (released.dmf(logvar=False), {"num_heads": 2, "network": "DMFTransformer"}),
    ],
)
def test_the_network_is_the_one_that_was_saved(tmp_path, network, stated):
    pipeline = meanflow.load(save(tmp_path / "released.pt", network), **stated)
    assert type(pipeline.network) is type(network)
    assert equal(pipeline.network.state_dict(), network.state_dict())
    config = pipeline.network.config
    assert {key: value for key, value in config.items() if key != "mlp_ratio"} == {
        key: value for key, value in network.config.items() if key != "mlp_ratio"
    }
    assert not pipeline.network.training
    assert pipeline.normalization == SCALE_0_18215
    assert pipeline.codec.config == {"name": "autoencoder_kl", "path": "stabilityai/sd-vae-ft-mse"}
    flow_map = type(network).__name__ == "DMFTransformer"
    assert type(pipeline.sampler).__name__ == ("FlowMapEuler" if flow_map else "FlowEuler")


def test_official_head_counts():
    assert NUM_HEADS == {384: 6, 768: 12, 1024: 16, 1152: 16}


def test_a_network_without_marks_is_a_flow_unless_stated(tmp_path):
    path = save(tmp_path / "plain.pt", released.dmf(logvar=False))
    assert type(meanflow.load(path, num_heads=2).network).__name__ == "SiT"
    network = meanflow.load(path, num_heads=2, dmf_depth=1).network
    assert (type(network).__name__, network.config["dmf_depth"]) == ("DMFTransformer", 1)


def test_a_training_checkpoint_tells_its_arguments(tmp_path):
    network = released.dmf(dmf_depth=1, logvar=False)
    average = {key: value / 2 for key, value in network.state_dict().items()}
    content = {"model": network.state_dict(), "ema": average, "opt": {}, "steps": 3}
    torch.save(content | {"args": Namespace(model="DMFT-tiny", dmf_depth=1)}, tmp_path / "0000003.pt")
    pipeline = meanflow.load(tmp_path / "0000003.pt", num_heads=2)
    assert pipeline.config["network"]["name"] == "DMFTransformer"
    assert pipeline.config["network"]["dmf_depth"] == 1
    assert equal(pipeline.network.state_dict(), average)
    raw = meanflow.load(tmp_path / "0000003.pt", ema=False, num_heads=2)
    assert equal(raw.network.state_dict(), network.state_dict())
    with pytest.raises(ValueError, match=r"0000003\.pt: dmf_depth is 1 in the file, but 2 was stated"):
        meanflow.load(tmp_path / "0000003.pt", num_heads=2, dmf_depth=2)
    del content["model"]
    torch.save(content, tmp_path / "ema.pt")
    with pytest.raises(ValueError, match=r"ema\.pt holds no weights under 'model', only \['ema', 'opt', 'steps'\]"):
        load_weights(tmp_path / "ema.pt", ema=False)


def test_a_flow_map_starts_from_a_released_flow(tmp_path):
    flow = released.aligned_sit()
    torch.save({"model": flow.state_dict(), "ema": flow.state_dict(), "args": Namespace(lr=1)}, tmp_path / "sit.pt")
    conversion = load_flow_weights(released.dmf(), load_weights(tmp_path / "sit.pt"))
    assert conversion.new == ["logvar_linear.bias", "logvar_linear.weight"]
    assert all(key.startswith("projectors.") for key in conversion.dropped)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"input_size": 32}, "input_size is 8 in the file, but 32 was stated"),
        ({"num_classes": 1000}, "num_classes is 5 in the file, but 1000 was stated"),
        ({"network": "IMFTransformer"}, "network is 'DMFTransformer' in the file, but 'IMFTransformer' was stated"),
        ({"width": 3}, r"\['width'\] cannot be stated, allowed settings are \['activation_checkpointing'"),
        ({"dmf_depth": 9}, r"dmf_depth must be from 0 to depth \(3\), got 9"),
        ({"normalization": "field"}, "normalization must be one of"),
        ({"sampler": 3}, "sampler must be stated as an object or as its configuration, got 3"),
    ],
)
def test_what_is_stated_is_checked(tmp_path, stated, message):
    path = save(tmp_path / "dmf.pt", released.dmf())
    with pytest.raises(ValueError, match=message):
        meanflow.load(path, **{"num_heads": 2} | stated)


def test_what_is_stated_is_taken(tmp_path):
    path = save(tmp_path / "dmf.pt", released.dmf())
    pipeline = meanflow.load(
        path,
        num_heads=4,
        normalization="imf",
        sampler={"name": "FlowMapRestart", "num_steps": 2},
        attention="reference",
    )
    assert pipeline.normalization == IMF
    assert type(pipeline.sampler).__name__ == "FlowMapRestart"
    assert (pipeline.network.config["num_heads"], pipeline.network.config["attention"]) == (4, "reference")


def test_what_cannot_be_known_must_be_stated(tmp_path):
    path = save(tmp_path / "dmf.pt", released.dmf())
    with pytest.raises(
        ValueError, match=r"\['num_heads'\] cannot be read from it and must be stated, as num_heads=\.\.\."
    ):
        meanflow.load(path)
    path = save(tmp_path / "pixels.pt", released.sit(in_channels=3))
    with pytest.raises(ValueError, match=r"\['codec', 'normalization'\] cannot be read from it"):
        meanflow.load(path, num_heads=2)


def test_half_precision_is_widened_and_said(tmp_path):
    weights = {key: value.half() for key, value in released.sit().state_dict().items()}
    torch.save(weights, tmp_path / "half.pt")
    with pytest.warns(UserWarning, match=r"half\.pt stores float16 weights; they are read as float32"):
        network = meanflow.load(tmp_path / "half.pt", num_heads=2).network
    assert equal(network.state_dict(), {key: value.float() for key, value in weights.items()})


def test_missing_unexpected_and_misshapen_keys_are_listed(tmp_path):
    weights = released.sit().state_dict()
    del weights["blocks.1.attn.qkv.bias"]
    weights |= {"extra": torch.ones(1), "final_layer.linear.bias": torch.ones(32)}
    torch.save(weights, tmp_path / "other.pt")
    message = (
        r"other\.pt is of another architecture: missing keys \['blocks\.1\.attn\.qkv\.bias'\]; unexpected keys "
        r"\['extra'\]; other shapes \['final_layer\.linear\.bias is \(32,\) instead of \(16,\)'\]"
    )
    with pytest.raises(ValueError, match=message):
        meanflow.load(tmp_path / "other.pt", num_heads=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": None}, "missing key 'pos_embed'"),
        ({"pos_embed": torch.ones(1, 15, 24)}, "pos_embed has 15 places, which is no square"),
        ({"x_embedder.proj.weight": torch.ones(24, 16)}, r"x_embedder\.proj\.weight has shape \(24, 16\), not 4 axes"),
        ({"pos_embed": torch.ones(1, 16, 24, dtype=torch.int64)}, r"pos_embed holds torch\.int64"),
    ],
)
def test_sizes_need_sound_tensors(tmp_path, change, message):
    weights = {key: value for key, value in (released.sit().state_dict() | change).items() if value is not None}
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        meanflow.load(tmp_path / "other.pt", num_heads=2)
