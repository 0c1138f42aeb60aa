import math

import pytest
import torch

from meanflow.dual import Dual
from meanflow.layers import LabelEmbedder, TimestepEmbedder, position_table, sinusoidal_embedding
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, central_difference, normal

TIMES = torch.tensor([0.0, 0.013, 0.5, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("dim", [256, 128, 33])
def test_sinusoidal_embedding_is_the_formula(dim):
    half = dim // 2
    frequencies = [10_000 ** (-i / half) for i in range(half)]
    expected = [
        [math.cos(t * w) for w in frequencies] + [math.sin(t * w) for w in frequencies] + [0.0] * (dim % 2)
        for t in TIMES.tolist()
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(sinusoidal_embedding(TIMES, dim), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dim", [256, 33])
def test_sinusoidal_embedding_on_duals_agrees_with_jvp(dim):
    assert_dual_is_jvp(lambda t: sinusoidal_embedding(t, dim), [TIMES], [normal(4)])


def test_sinusoidal_tangent_agrees_with_central_differences():
    dt = normal(4)
    tangent = sinusoidal_embedding(Dual(TIMES, dt), 64).tangent
    expected = central_difference(lambda t: sinusoidal_embedding(t, 64), [TIMES], [dt])
    assert_equal_to_rounding(tangent, expected, relative=1e-9)


def test_timestep_embedder_on_duals_agrees_with_jvp():
    embedder = TimestepEmbedder(hidden_size=12, frequency_size=16).double()
    assert_dual_is_jvp(embedder, [TIMES], [normal(4)], embedder.parameters())


def test_position_table_encodes_columns_first_and_rows_second():
    table = position_table(dim=16, grid_size=3)
    assert table.shape == (9, 16)
    assert table.dtype == torch.float64
    frequencies = [10_000 ** (-k / 4) for k in range(4)]
    for row in range(3):
        for column in range(3):
            expected = [f(i * w) for i in (column, row) for f in (math.sin, math.cos) for w in frequencies]
            torch.testing.assert_close(table[3 * row + column], torch.tensor(expected, dtype=torch.float64))


def test_position_table_needs_four_equal_parts():
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of 4 .* got 18"):
        position_table(18, 4)


def test_label_embedder_has_one_row_more_than_classes():
    embedder = LabelEmbedder(num_classes=3, hidden_size=4)
    rows = embedder(torch.tensor([3, 0, 3]))
    torch.testing.assert_close(rows, embedder.embedding_table.weight[[3, 0, 3]], rtol=0, atol=0)
    assert len(embedder.embedding_table.weight) == 4
