"""Official iMF files of the PyTorch branch."""

import pytest
import torch

import meanflow
from meanflow.checkpoints import load_weights
from meanflow.checkpoints.imf_torch import official_names, our_names
from meanflow.codecs.normalization import IMF
from tests.checkpoints import released

OTHER = {
    "hidden_size": 32,
    "num_heads": 4,
    "aux_head_depth": 2,
    "mlp_ratio": 2.0,
    "num_tokens": {"class": 3, "omega": 1, "t_min": 1, "t_max": 2, "time": 1},
}


@pytest.mark.parametrize("v_heads", [True, False])
@pytest.mark.parametrize("arguments", [{}, OTHER])
def test_the_network_is_the_one_that_was_saved(tmp_path, arguments, v_heads):
    network = released.imf(v_heads=v_heads, **arguments)
    torch.save(official_names(network.state_dict()), tmp_path / "imf.pth")
    pipeline = meanflow.load(tmp_path / "imf.pth", input_size=8)
    assert pipeline.network.config == network.config
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in pipeline.network.state_dict().items())
    assert load_weights(tmp_path / "imf.pth").keys() == state.keys()
    assert pipeline.normalization == IMF


def test_latents_are_32_wide_unless_stated(tmp_path):
    torch.save(released.imf_weights(), tmp_path / "imf.pth")
    assert meanflow.load(tmp_path / "imf.pth").network.input_size == 32


def test_names():
    """One parameter of every kind, as the notes on the official code spell them."""
    pairs = {
        "x_embedder.proj.weight": "net.x_embedder.proj.weight",
        "h_embedder.mlp.0.weight": "net.h_embedder.mlp.0._flax_linear.weight",
        "omega_embedder.mlp.2.bias": "net.omega_embedder.mlp.2._flax_linear.bias",
        "t_min_embedder.mlp.0.bias": "net.cfg_t_start_embedder.mlp.0._flax_linear.bias",
        "t_max_embedder.mlp.2.weight": "net.cfg_t_end_embedder.mlp.2._flax_linear.weight",
        "y_embedder.embedding_table.weight": "net.y_embedder.embedding_table._flax_embedding.weight",
        "t_min_tokens": "net.t_min_tokens",
        "shared_blocks.0.norm1.scale": "net.shared_blocks.0.norm1.weight",
        "shared_blocks.0.attn.q_proj.weight": "net.shared_blocks.0.attn.q_proj._flax_linear.weight",
        "shared_blocks.1.attn.out_proj.weight": "net.shared_blocks.1.attn.out_proj._flax_linear.weight",
        "u_heads.0.attn.k_norm.scale": "net.u_heads.0.attn.k_norm.weight",
        "v_heads.0.mlp.w3.weight": "net.v_heads.0.mlp.w3._flax_linear.weight",
        "v_heads.0.mlp_scale": "net.v_heads.0.mlp_scale",
        "u_final_layer.norm.scale": "net.u_final_layer.norm.weight",
        "v_final_layer.linear.bias": "net.v_final_layer.linear._flax_linear.bias",
    }
    ours = released.imf().state_dict()
    official = official_names(ours)
    assert pairs.items() <= dict(zip(ours, official, strict=True)).items()
    assert list(our_names(official)) == list(ours)
    assert list(our_names(ours)) == list(ours)


def test_v_heads_are_there_or_not_but_not_in_part(tmp_path):
    weights = released.imf_weights()
    torch.save({key: value for key, value in weights.items() if ".v_heads." not in key}, tmp_path / "eval.pth")
    assert meanflow.load(tmp_path / "eval.pth").network.config["v_heads"] is False
    with pytest.raises(ValueError, match=r"eval\.pth: v_heads is False in the file, but True was stated"):
        meanflow.load(tmp_path / "eval.pth", v_heads=True)
    del weights["net.v_heads.0.mlp.w1._flax_linear.weight"]
    torch.save(weights, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"missing keys \['v_heads\.0\.mlp\.w1\.weight'\]"):
        meanflow.load(tmp_path / "part.pth")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"num_heads": 4}, "num_heads is 2 in the file, but 4 was stated"),
        ({"num_classes": 1000}, "num_classes is 5 in the file, but 1000 was stated"),
        ({"dmf_depth": 2}, r"\['dmf_depth'\] cannot be stated, allowed settings are"),
        ({"input_size": 7}, "input_size must be a multiple of patch_size"),
    ],
)
def test_what_is_stated_is_checked(tmp_path, stated, message):
    torch.save(released.imf_weights(), tmp_path / "imf.pth")
    with pytest.raises(ValueError, match=message):
        meanflow.load(tmp_path / "imf.pth", **stated)


def test_a_foreign_network_with_familiar_names_is_refused(tmp_path):
    weights = released.imf_weights()
    torch.save({key: value for key, value in weights.items() if "x_embedder" not in key}, tmp_path / "part.pth")
    message = r"part\.pth is of another architecture or incomplete: missing key 'x_embedder"
    with pytest.raises(ValueError, match=message):
        meanflow.load(tmp_path / "part.pth")
