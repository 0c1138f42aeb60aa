import pytest
import torch

from meanflow.dual import Dual
from meanflow.layers import sinusoidal_embedding
from meanflow.models import DMFTransformer
from tests.duals import assert_equal_to_rounding
from tests.models.official_keys import block_keys, qk_norm_keys
from tests.models.test_sit import OUTSIDE_BLOCKS
from tests.networks import TINY, dmf, inputs

LOGVAR = ["logvar_linear.bias", "logvar_linear.weight"]


def test_state_dict_keys():
    blocks = block_keys(0) + block_keys(1)
    assert sorted(dmf(depth=2).state_dict()) == sorted(OUTSIDE_BLOCKS + LOGVAR + blocks)
    assert sorted(dmf(depth=2, logvar=False).state_dict()) == sorted(OUTSIDE_BLOCKS + blocks)
    keys = OUTSIDE_BLOCKS + LOGVAR + blocks + qk_norm_keys(0) + qk_norm_keys(1)
    assert sorted(dmf(depth=2, qk_norm=True).state_dict()) == sorted(keys)
    assert dmf().state_dict()["logvar_linear.weight"].shape == (1, 256)


@pytest.mark.parametrize("dmf_depth", [1, 2, 3])
def test_encoder_blocks_see_t_and_decoder_blocks_and_the_final_layer_see_r(dmf_depth):
    network, seen = dmf(dmf_depth=dmf_depth), []
    for layer in (*network.blocks, network.final_layer):
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    z_t, t, r, cond, _ = inputs()
    network(z_t, t, r, cond)
    label = network.y_embedder(cond.y)
    c_t, c_r = network.t_embedder(t) + label, network.t_embedder(r) + label
    expected = [c_t] * dmf_depth + [c_r] * (3 - dmf_depth) + [c_r]
    assert len(seen) == 4
    assert all(torch.equal(actual, c) for actual, c in zip(seen, expected, strict=True))


def test_logvar_is_linear_in_the_embeddings_of_both_times():
    network = dmf()
    z_t, t, r, cond, v = inputs()
    embedding = torch.cat([sinusoidal_embedding(t, 128), sinusoidal_embedding(r, 128)], dim=1)
    expected = embedding @ network.logvar_linear.weight[0] + network.logvar_linear.bias
    assert_equal_to_rounding(network(z_t, t, r, cond).logvar, expected, relative=1e-13)
    on_duals = network(Dual(z_t, v), Dual(t, torch.ones_like(t)), r, cond).logvar
    assert_equal_to_rounding(on_duals, expected, relative=1e-13)


def test_without_that_head_logvar_is_zero():
    z_t, t, r, cond, _ = inputs()
    assert torch.equal(dmf(logvar=False)(z_t, t, r, cond).logvar, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(("dmf_depth", "sees"), [(0, "r"), (3, "t")])
def test_all_blocks_may_belong_to_one_side(dmf_depth, sees):
    """Blocks of a decoder alone do not see t; blocks of an encoder alone do not see r, the final layer does."""
    z_t, t, r, cond, _ = inputs()
    network = dmf(dmf_depth=dmf_depth)
    seen: list[torch.Tensor] = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    output = network(z_t, t, r, cond)
    time = {"t": t, "r": r}[sees]
    expected = network.t_embedder(time) + network.y_embedder(cond.y)
    assert len(seen) == 3
    assert all(torch.equal(condition, expected) for condition in seen)
    assert output.u.shape == z_t.shape


@pytest.mark.parametrize("dmf_depth", [-1, 4])
def test_dmf_depth_counts_encoder_blocks(dmf_depth):
    with pytest.raises(ValueError, match=rf"dmf_depth must be from 0 to depth \(3\), got {dmf_depth}"):
        DMFTransformer(**TINY, dmf_depth=dmf_depth)
