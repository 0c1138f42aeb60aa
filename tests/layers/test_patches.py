import torch

from meanflow.layers import PatchEmbedding, unpatchify
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, normal


def test_patch_embedding_on_duals_agrees_with_jvp():
    layer = PatchEmbedding(patch_size=2, in_channels=3, hidden_size=5).double()
    assert_dual_is_jvp(layer, [normal(2, 3, 4, 4)], [normal(2, 3, 4, 4, seed=1)], layer.parameters())


def test_patch_embedding_is_a_linear_map_of_each_patch_row_by_row():
    layer = PatchEmbedding(patch_size=2, in_channels=3, hidden_size=5).double()
    x = normal(2, 3, 4, 6)
    tokens = layer(x)
    assert tokens.shape == (2, 6, 5)
    for row in range(2):
        for column in range(3):
            patch = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = patch.flatten(1) @ layer.proj.weight.flatten(1).T + layer.proj.bias
            assert_equal_to_rounding(tokens[:, 3 * row + column], expected, relative=1e-13)


def test_unpatchify_places_patches_with_the_channel_fastest():
    tokens = torch.arange(2 * 4 * 12, dtype=torch.float64).reshape(2, 4, 12)
    image = unpatchify(tokens, patch_size=2, grid_size=2)
    assert image.shape == (2, 3, 4, 4)
    for row in range(4):
        for column in range(4):
            token = tokens[:, 2 * (row // 2) + column // 2]
            pixel = 2 * (row % 2) + column % 2
            assert torch.equal(image[:, :, row, column], token[:, 3 * pixel : 3 * pixel + 3])


def test_unpatchify_on_duals_agrees_with_jvp():
    assert_dual_is_jvp(lambda x: unpatchify(x, 2, 2), [normal(2, 4, 12)], [normal(2, 4, 12, seed=1)])
