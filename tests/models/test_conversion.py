import pytest
import torch

from meanflow.models import load_flow_weights
from tests.networks import aligned_sit, dmf, inputs, sit


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_converted_flow_is_the_same_function_where_r_is_t(qk_norm):
    flow, flow_map = sit(qk_norm=qk_norm), dmf(seed=1, qk_norm=qk_norm)
    load_flow_weights(flow_map, flow.state_dict())
    z_t, t, r, cond, _ = inputs()
    assert torch.equal(flow_map(z_t, t, t, cond).u, flow(z_t, t, t, cond).v)
    assert not torch.equal(flow_map(z_t, t, r, cond).u, flow(z_t, t, t, cond).v)


def test_new_and_dropped_keys_are_reported():
    flow_map = dmf(seed=1, depth=2, qk_norm=True)
    before = {key: value.clone() for key, value in flow_map.state_dict().items()}
    source = aligned_sit(depth=2)
    conversion = load_flow_weights(flow_map, source.state_dict())
    assert conversion.new == [
        "blocks.0.attn.k_norm.scale",
        "blocks.0.attn.q_norm.scale",
        "blocks.1.attn.k_norm.scale",
        "blocks.1.attn.q_norm.scale",
        "logvar_linear.bias",
        "logvar_linear.weight",
    ]
    assert conversion.dropped == [
        f"projectors.{n}.{i}.{p}" for n in (0, 1) for i in (0, 2, 4) for p in ("bias", "weight")
    ]
    for key, value in flow_map.state_dict().items():
        assert torch.equal(value, before[key] if key in conversion.new else source.state_dict()[key])


def test_nothing_is_new_or_dropped_between_equal_networks():
    assert load_flow_weights(dmf(), dmf(seed=1).state_dict()) == ([], [])


def shorter(state_dict):
    return {key: value for key, value in state_dict.items() if key != "blocks.1.mlp.fc1.bias"}


def wrapped(state_dict):
    return {"model": state_dict["pos_embed"], "ema": state_dict["pos_embed"]}


def reshaped(state_dict):
    return state_dict | {"y_embedder.embedding_table.weight": torch.zeros(11, 16)}


def extended(state_dict):
    return state_dict | {"blocks.9.mlp.fc1.bias": torch.zeros(32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorter, r"missing keys \['blocks.1.mlp.fc1.bias'\]; unexpected keys \[\]; other shapes \[\]"),
        (extended, r"missing keys \[\]; unexpected keys \['blocks.9.mlp.fc1.bias'\]"),
        (reshaped, r"other shapes \['y_embedder.embedding_table.weight is \(11, 16\) instead of \(6, 16\)'\]"),
        (wrapped, r"missing keys \['blocks.0.adaLN_modulation.1.bias', .* unexpected keys \['ema', 'model'\]"),
    ],
)
def test_other_weights_are_refused_and_nothing_is_loaded(change, message):
    network = dmf(seed=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_flow_weights(network, change(sit().state_dict()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
