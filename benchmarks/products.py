"""Matrix products of primal and tangent: one after the other, as the layers do, or both rows in one product.

Prints a line of JSON per layer; ``python -m benchmarks`` collects them. ``stacked_ratio`` is the time of one product of
twice the rows, copying the two inputs together included, over that of two products; below 1, stacking would pay.
"""

from __future__ import annotations

import argparse
import json
from typing import NamedTuple

import torch
from torch.nn import functional

from benchmarks.measure import interleaved_medians


class Layer(NamedTuple):
    """A linear layer of a transformer block.

    Attributes:
        name: Network and layer.
        rows: Tokens, or samples, of a batch.
        in_features: Width of the input.
        out_features: Width of the output.
    """

    name: str
    rows: int
    in_features: int
    out_features: int


# A batch of 32 on a GPU and of 8 on a CPU, 256 tokens a sample.
LAYERS = {
    "cuda": (
        Layer("DMF-XL/2 qkv", 8192, 1152, 3456),
        Layer("DMF-XL/2 projection", 8192, 1152, 1152),
        Layer("DMF-XL/2 MLP in", 8192, 1152, 4608),
        Layer("DMF-XL/2 modulation", 32, 1152, 6912),
    ),
    "cpu": (
        Layer("DMF-S/2 qkv", 2048, 384, 1152),
        Layer("DMF-S/2 projection", 2048, 384, 384),
        Layer("DMF-S/2 MLP in", 2048, 384, 1536),
        Layer("DMF-S/2 modulation", 8, 384, 2304),
    ),
}


def stacked_ratio(layer: Layer, device: torch.device, dtype: torch.dtype, rounds: int) -> float:
    """Return the time of the stacked product over that of two products; medians of rounds in turns."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(layer.out_features, layer.in_features, generator=generator).to(device, dtype)
    primal, tangent = torch.randn(2, layer.rows, layer.in_features, generator=generator).to(device, dtype)
    repeats = max(1, 2**31 // (layer.rows * layer.in_features * layer.out_features))  # rounds that can be timed

    def separate(_: int) -> None:
        for _ in range(repeats):
            functional.linear(primal, weight), functional.linear(tangent, weight)

    def stacked(_: int) -> None:
        for _ in range(repeats):
            functional.linear(torch.cat([primal, tangent]), weight).chunk(2)

    with torch.no_grad():
        for way in (separate, stacked):
            way(0)
        ours, other = interleaved_medians([separate, stacked], device, rounds, rounds)
    return other / ours


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for layer in LAYERS[device.type]:
        row = {
            "layer": layer.name,
            "device": device.type,
            "rows": layer.rows,
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "stacked_ratio": stacked_ratio(layer, device, dtype, arguments.rounds),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
