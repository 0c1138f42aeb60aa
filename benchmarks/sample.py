"""Images per second of sampling at 1, 2 and 4 steps, with and without decoding, and the latency of one image.

Prints a line of JSON per row; ``python -m benchmarks`` collects them. Weights are random, which changes no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import AutoencoderKL

from benchmarks.cases import randomize
from benchmarks.measure import release_memory, seconds
from meanflow.codecs import AutoencoderKLCodec, IdentityCodec
from meanflow.codecs.normalization import SCALE_0_18215, identity
from meanflow.models import DMFTransformer
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowMapEuler
from meanflow.types import Condition

NUM_STEPS = (1, 2, 4)
MODES = ("float32", "bfloat16", "bfloat16 compiled")
# Stable Diffusion's autoencoder.
SD_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 256,
}


def large_pipeline() -> Pipeline:
    """Build DMF-XL/2 for images of 256 pixels, with a decoder of Stable Diffusion's size."""
    codec = AutoencoderKLCodec()
    decoder: Any = AutoencoderKL(**SD_AUTOENCODER)
    codec.__dict__["network"] = decoder.eval().requires_grad_(False)  # in place of a download
    return Pipeline(DMFTransformer.from_size("XL/2", dmf_depth=20), codec, SCALE_0_18215, FlowMapEuler(1))


def small_pipeline() -> Pipeline:
    """Build the network of the quickstart, which draws digits in pixels: there is nothing to decode."""
    size: dict[str, Any] = {"input_size": 8, "in_channels": 1, "num_classes": 10, "hidden_size": 64}
    network = DMFTransformer(**size, depth=4, num_heads=4, dmf_depth=2)
    return Pipeline(network, IdentityCodec(1), identity(1), FlowMapEuler(1))


class Draws:
    """Start noise and labels of a batch, and how a pipeline turns them into images.

    Args:
        pipeline: On its device.
        batch_size: Number of images.
    """

    def __init__(self, pipeline: Pipeline, batch_size: int) -> None:
        network, device = pipeline.network, pipeline.device
        self.pipeline = pipeline
        self.e = torch.randn(batch_size, network.in_channels, network.input_size, network.input_size, device=device)
        self.cond = Condition(torch.zeros(batch_size, dtype=torch.int64, device=device))

    def __call__(self, num_steps: int, decoded: bool) -> torch.Tensor:
        """Sample latents, and decode them if asked to."""
        with self.pipeline.autocast():
            x = FlowMapEuler(num_steps)(self.pipeline.sampled, self.e, self.cond).float()
        return self.pipeline.decode(x) if decoded else x


def rows(device: torch.device, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of all modes."""
    large = device.type == "cuda"
    with torch.device(device):
        pipeline = (large_pipeline if large else small_pipeline)()
        randomize(pipeline.network)
    pipeline.network.eval()
    network = "DMF-XL/2" if large else "DMF digits"
    # Compiling for a CPU takes longer than it saves here.
    for mode in MODES if large else MODES[:2]:
        if mode != "float32":
            pipeline.accelerate(torch.bfloat16, compile="compiled" in mode)
        for batch_size in (64, 1):
            draws = Draws(pipeline, batch_size)
            for num_steps in NUM_STEPS if batch_size > 1 else (1,):
                for decoded in (False, True) if large else (False,):
                    row: dict[str, Any] = {
                        "network": network,
                        "device": device.type,
                        "mode": mode,
                        "batch_size": batch_size,
                        "num_steps": num_steps,
                        "decoded": decoded,
                    }
                    try:
                        row |= measured(draws, num_steps, decoded, device, repeats)
                    except Exception as error:
                        row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"[:300]
                        release_memory()
                    yield row


def measured(draws: Draws, num_steps: int, decoded: bool, device: torch.device, repeats: int) -> dict[str, float]:
    """Return images per second, and for a single image its latency; medians."""
    for _ in range(3):
        draws(num_steps, decoded)
    median = statistics.median(seconds(lambda: draws(num_steps, decoded), device) for _ in range(repeats))
    batch_size = len(draws.e)
    return {"images_per_second": batch_size / median} | ({"latency_seconds": median} if batch_size == 1 else {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sample", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--repeats", type=int, default=5, help="timed batches of each kind")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in rows(torch.device(arguments.device), arguments.repeats):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
