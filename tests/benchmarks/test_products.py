"""The benchmark of matrix products: one stacked product against separate products."""

import json
import sys

import pytest
import torch

from benchmarks import products
from benchmarks.products import Layer, stacked_ratio


@pytest.mark.parametrize("rows", [1, 64])
def test_ratio(rows):
    assert stacked_ratio(Layer("tiny", rows, 64, 64), torch.device("cpu"), torch.float32, rounds=1) > 0


def test_prints_a_row_per_layer(monkeypatch, capsys):
    monkeypatch.setattr(products, "stacked_ratio", lambda layer, device, dtype, rounds: float(layer.rows))
    monkeypatch.setattr(sys, "argv", ["products", "--device", "cpu"])
    products.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["layer"] for row in rows] == [layer.name for layer in products.LAYERS["cpu"]]
    assert all(row["stacked_ratio"] == row["rows"] for row in rows)
