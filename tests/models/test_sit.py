import pytest
import torch

from meanflow.models import AlignedSiT
from tests.duals import assert_equal_to_rounding
from tests.models.official_keys import block_keys, qk_norm_keys
from tests.networks import ALIGNMENT, TINY, aligned_sit, inputs, sit

# State-dict keys are a public interface: a change here breaks every released checkpoint.
OUTSIDE_BLOCKS = [
    "final_layer.adaLN_modulation.1.bias",
    "final_layer.adaLN_modulation.1.weight",
    "final_layer.linear.bias",
    "final_layer.linear.weight",
    "pos_embed",
    "t_embedder.mlp.0.bias",
    "t_embedder.mlp.0.weight",
    "t_embedder.mlp.2.bias",
    "t_embedder.mlp.2.weight",
    "x_embedder.proj.bias",
    "x_embedder.proj.weight",
    "y_embedder.embedding_table.weight",
]
PROJECTORS = [
    "projectors.0.0.bias",
    "projectors.0.0.weight",
    "projectors.0.2.bias",
    "projectors.0.2.weight",
    "projectors.0.4.bias",
    "projectors.0.4.weight",
    "projectors.1.0.bias",
    "projectors.1.0.weight",
    "projectors.1.2.bias",
    "projectors.1.2.weight",
    "projectors.1.4.bias",
    "projectors.1.4.weight",
]


def test_state_dict_keys_of_sit():
    assert sorted(sit(depth=1).state_dict()) == sorted(OUTSIDE_BLOCKS + block_keys(0))
    keys = OUTSIDE_BLOCKS + block_keys(0) + block_keys(1) + qk_norm_keys(0) + qk_norm_keys(1)
    assert sorted(sit(depth=2, qk_norm=True).state_dict()) == sorted(keys)


def test_state_dict_keys_of_aligned_sit():
    keys = OUTSIDE_BLOCKS + PROJECTORS + block_keys(0) + block_keys(1)
    assert sorted(aligned_sit(depth=2).state_dict()) == sorted(keys)


def test_state_dict_shapes():
    shapes = {key: tuple(value.shape) for key, value in aligned_sit(qk_norm=True).state_dict().items()}
    assert shapes["pos_embed"] == (1, 4, 16)
    assert shapes["x_embedder.proj.weight"] == (16, 3, 2, 2)
    assert shapes["t_embedder.mlp.0.weight"] == (16, 256)
    assert shapes["y_embedder.embedding_table.weight"] == (6, 16)
    assert shapes["blocks.0.attn.qkv.weight"] == (48, 16)
    assert shapes["blocks.0.attn.q_norm.scale"] == (8,)
    assert shapes["blocks.0.mlp.fc1.weight"] == (32, 16)
    assert shapes["blocks.0.adaLN_modulation.1.weight"] == (96, 16)
    assert shapes["final_layer.adaLN_modulation.1.weight"] == (32, 16)
    assert shapes["final_layer.linear.weight"] == (12, 16)
    assert shapes["projectors.1.0.weight"] == (8, 16)
    assert shapes["projectors.1.4.weight"] == (4, 8)


def test_r_has_no_part_in_a_flow():
    network = sit()
    z_t, t, r, cond, _ = inputs()
    assert torch.equal(network(z_t, t, r, cond).v, network(z_t, t, t, cond).v)
    assert not torch.equal(network(z_t, t, r, cond).v, network(z_t, r, r, cond).v)


def test_samples_do_not_see_one_another():
    network = sit()
    z_t, t, r, cond, _ = inputs()
    alone = network(z_t[:1], t[:1], r[:1], cond._replace(y=cond.y[:1])).v
    assert_equal_to_rounding(network(z_t, t, r, cond).v[:1], alone, relative=1e-13)


def test_features_exist_in_training_mode_only():
    network = aligned_sit()
    z_t, t, r, cond, _ = inputs()
    trained = network.train()(z_t, t, r, cond)
    evaluated = network.eval()(z_t, t, r, cond)
    assert [f.shape for f in trained.features] == [(4, 4, 6), (4, 4, 4)]
    assert evaluated.features == ()
    assert torch.equal(trained.v, evaluated.v)
    assert sit().train()(z_t, t, r, cond).features == ()


def test_features_are_projected_after_the_block_that_alignment_depth_counts():
    z_t, t, r, cond, _ = inputs()
    for depth in (1, 2, 3):
        network, tokens = aligned_sit(alignment_depth=depth), []
        network.blocks[depth - 1].register_forward_hook(lambda _, __, output, tokens=tokens: tokens.append(output))
        features = network(z_t, t, r, cond).features
        for feature, projector in zip(features, network.projectors, strict=True):
            assert torch.equal(feature, projector(tokens[0]))


def test_projectors_do_not_change_the_flow():
    aligned, plain = aligned_sit(), sit()
    state_dict = {key: value for key, value in aligned.state_dict().items() if not key.startswith("projectors.")}
    plain.load_state_dict(state_dict)
    z_t, t, r, cond, _ = inputs()
    assert torch.equal(aligned(z_t, t, r, cond).v, plain(z_t, t, r, cond).v)


@pytest.mark.parametrize("depth", [0, 4])
def test_alignment_depth_counts_blocks_from_one(depth):
    with pytest.raises(ValueError, match=rf"alignment_depth must be from 1 to depth \(3\), got {depth}"):
        AlignedSiT(**TINY | ALIGNMENT | {"alignment_depth": depth})
