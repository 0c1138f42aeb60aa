"""Images per second of scoring in a stream, and of the way by files: write a PNG per image, read them back, extract.

    python benchmarks/evaluate.py [--images 96] [--batch-size 32] [--rounds 5] [--features efficientnet_lite0]

Both ways draw the same 256-pixel images with the same one-step network and decoder, and extract the same features in
batches of the same size; the files are read by two worker processes, as the official programs do. Both must arrive at
the same distance from a reference. Rounds alternate, and the median counts; every second by the clock is in it, from
the first noise to the distance. On a CPU the networks that draw and decode are small ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.cases import randomize
from benchmarks.measure import seconds
from meanflow.codecs import AutoencoderKLCodec
from meanflow.evaluation import sampled_images
from meanflow.labels import BalancedLabels
from meanflow.metrics.features import build
from meanflow.metrics.reference import ReferenceBuilder
from meanflow.models import DMFTransformer
from meanflow.normalization import SCALE_0_18215
from meanflow.pipeline import Pipeline
from meanflow.protocol import Protocol
from meanflow.samplers import FlowMapEuler
from meanflow.scoring import Scorer

NUM_CLASSES = 1000


class PngFiles(Dataset[Tensor]):
    """The images of a folder, one by one.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Return an image, uint8 ``(3, H, W)``."""
        return torch.from_numpy(np.array(Image.open(self.files[index]))).permute(2, 0, 1)


def one_step_pipeline(device: torch.device) -> Pipeline:
    """Build a one-step flow map on 32 x 32 latents and a decoder to 256 pixels, with random weights."""
    large = device.type == "cuda"
    widths = [128, 256, 512, 512] if large else [8, 8, 16, 16]
    decoder: Any = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=widths,
        layers_per_block=2 if large else 1,
        norm_num_groups=32 if large else 4,
        latent_channels=4,
        sample_size=256,
    )
    codec = AutoencoderKLCodec(batch_size=32)
    codec.__dict__["network"] = decoder.to(device).eval().requires_grad_(False)  # in place of a download
    sizes: dict[str, Any] = {"hidden_size": 64, "depth": 4, "num_heads": 4, "dmf_depth": 2, "num_classes": NUM_CLASSES}
    network = DMFTransformer.from_size("XL/2", dmf_depth=20) if large else DMFTransformer(input_size=32, **sizes)
    randomize(network)
    return Pipeline(network.eval(), codec, SCALE_0_18215, FlowMapEuler(1)).to(device)


class Comparison:
    """Both ways from labels to a distance.

    Args:
        features: Name of the feature extractor.
        num_images: Images to draw.
        batch_size: Images at a time.
        device: Where to draw and extract.
    """

    def __init__(self, features: str, num_images: int, batch_size: int, device: torch.device) -> None:
        metric = f"fd_{features}"
        self.protocol = Protocol("benchmark", [metric], BalancedLabels(), "round", num_images, reference="none")
        self.metric = metric
        self.scorer = Scorer([metric], {features: build(features)})
        self.pipeline = one_step_pipeline(device)
        self.labels = self.protocol.labels(num_images, NUM_CLASSES)
        self.batch_size = batch_size
        noise = torch.randint(0, 256, (batch_size, 3, 256, 256), generator=torch.Generator().manual_seed(1))
        builder = ReferenceBuilder(self.scorer.extractors.values())
        builder.update(noise.to(device, torch.uint8), range(batch_size))
        self.scorer.set_reference(builder.compute())

    def _drawn(self) -> Any:
        return sampled_images(self.pipeline, self.protocol, self.labels, seed=0, batch_size=self.batch_size)

    def stream(self) -> float:
        """Return the distance; images stay in memory."""
        return self.scorer.score(self._drawn())[self.metric]

    def files(self) -> float:
        """Return the distance by way of PNG files."""
        with tempfile.TemporaryDirectory() as name:
            for images, indices in self._drawn():
                pixels = images.permute(0, 2, 3, 1).cpu().numpy()
                for index, image in zip(indices, pixels, strict=True):
                    Image.fromarray(image).save(Path(name) / f"{index:06d}.png")
            loader = DataLoader(PngFiles(Path(name)), batch_size=self.batch_size, num_workers=2)
            start = 0
            for images in loader:
                numbers = range(start, start := start + len(images))
                self.scorer.update(self.scorer.extract(images.to(self.pipeline.device)), numbers)
            return self.scorer.compute()[self.metric]


def compare(comparison: Comparison, rounds: int, device: torch.device) -> dict[str, Any]:
    """Time both ways in turns.

    Raises:
        AssertionError: If they arrive at different distances.
    """
    ways: dict[str, Callable[[], float]] = {"stream": comparison.stream, "files": comparison.files}
    distances = {name: way() for name, way in ways.items()}  # and whatever happens only once
    if abs(distances["stream"] - distances["files"]) > 1e-6 * abs(distances["files"]):
        raise AssertionError(f"the two ways disagree: {distances}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way, device))
    number = len(comparison.labels)
    speeds = {f"{name}_images_per_second": number / statistics.median(times[name]) for name in ways}
    ratio = statistics.median(times["files"]) / statistics.median(times["stream"])
    each = [slow / fast for slow, fast in zip(times["files"], times["stream"], strict=True)]
    return speeds | {"speedup": ratio, "speedup_least": min(each), "speedup_most": max(each)}


def main() -> None:
    """Compare, print a line of JSON and what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--features", default="efficientnet_lite0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Fréchet distance from")  # few images, and a speed is all that counts
        comparison = Comparison(arguments.features, arguments.images, arguments.batch_size, device)
        row = compare(comparison, arguments.rounds, device)
    print(json.dumps({"features": arguments.features, "device": device.type, "num_images": arguments.images} | row))
    print(
        f"in a stream {row['stream_images_per_second']:.1f} images/s, by files {row['files_images_per_second']:.1f}: "
        f"{row['speedup']:.2f} times as fast (rounds {row['speedup_least']:.2f} to {row['speedup_most']:.2f})"
    )


if __name__ == "__main__":
    main()
