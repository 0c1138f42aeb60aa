"""Images per second of scoring in a stream, and of the way by files: write a PNG per image, read them back, extract.

    python benchmarks/evaluate.py [--images 96] [--batch-size 32] [--rounds 5] [--features efficientnet_lite0]

Both ways draw the same 256-pixel images with the same one-step network and decoder, and extract the same features in
batches of the same size; the files are read by two worker processes, as the official programs do. Both must arrive at
the same distance from a reference. Rounds alternate, and the median counts; every second by the clock is in it, from
the first noise to the last feature in the statistics; the distance, a constant for any number of images, is not. On a
CPU the network that draws is a small one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Run as a file, it would find its own folder only.
sys.path.insert(0, os.fspath(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.cases import randomize
from benchmarks.measure import seconds
from benchmarks.sample import large_pipeline
from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity
from meanflow.evaluation.labels import BalancedLabels
from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.run import sampled_images
from meanflow.evaluation.scorer import Scorer
from meanflow.metrics.features import build
from meanflow.metrics.reference import ReferenceBuilder
from meanflow.models import DMFTransformer
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowMapEuler

NUM_CLASSES = 1000
SIZE = 256  # pixels


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
    """Build a one-step flow map for images of 256 pixels, with random weights.

    On a GPU it is DMF-XL/2 with a decoder of Stable Diffusion's size; on a CPU a small network in pixels, whose images
    take as long to write as photographs do.
    """
    if device.type == "cuda":
        return large_pipeline().to(device)
    network = DMFTransformer(
        input_size=SIZE,
        patch_size=32,
        in_channels=3,
        hidden_size=64,
        depth=4,
        num_heads=4,
        dmf_depth=2,
        num_classes=NUM_CLASSES,
    )
    randomize(network)
    return Pipeline(network.eval(), IdentityCodec(3), identity(3), FlowMapEuler(1))


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
        noise = torch.randint(0, 256, (batch_size, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
        builder = ReferenceBuilder(self.scorer.extractors.values())
        builder.update(noise.to(device, torch.uint8), range(batch_size))
        self.scorer.set_reference(builder.compute())

    def _drawn(self) -> Any:
        return sampled_images(self.pipeline, self.protocol, self.labels, seed=0, batch_size=self.batch_size)

    def distance(self, way: Callable[[], None]) -> float:
        """Return the distance of the images that one of the two ways has added to the statistics."""
        self.scorer.reset()
        way()
        return self.scorer.compute()[self.metric]

    def stream(self) -> None:
        """Draw and extract; images stay in memory."""
        for images, indices in self._drawn():
            self.scorer.update(self.scorer.extract(images), indices)

    def files(self) -> None:
        """Draw, write PNG files, read them back and extract."""
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


def compare(comparison: Comparison, rounds: int, device: torch.device) -> dict[str, Any]:
    """Time both ways in turns.

    Raises:
        AssertionError: If they arrive at different distances.
    """
    ways: dict[str, Callable[[], None]] = {"stream": comparison.stream, "files": comparison.files}
    distances = {
        name: comparison.distance(way) for name, way in ways.items()
    }  # includes the work that happens only once
    if abs(distances["stream"] - distances["files"]) > 1e-6 * abs(distances["files"]):
        raise AssertionError(f"the two ways disagree: {distances}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way, device))
            comparison.scorer.reset()
    number = len(comparison.labels)
    speeds = {f"{name}_images_per_second": number / statistics.median(times[name]) for name in ways}
    ratio = statistics.median(times["files"]) / statistics.median(times["stream"])
    each = [slow / fast for slow, fast in zip(times["files"], times["stream"], strict=True)]
    return speeds | {"speedup": ratio, "speedup_least": min(each), "speedup_most": max(each)}


def main() -> None:
    """Compare, print a line of JSON, and print the result in words."""
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
        warnings.filterwarnings("ignore", message="fd_.* from .* images")  # few, but a speed is all that counts
        comparison = Comparison(arguments.features, arguments.images, arguments.batch_size, device)
        row = compare(comparison, arguments.rounds, device)
    print(json.dumps({"features": arguments.features, "device": device.type, "num_images": arguments.images} | row))
    print(
        f"in a stream {row['stream_images_per_second']:.1f} images/s, by files {row['files_images_per_second']:.1f}: "
        f"{row['speedup']:.2f} times as fast (rounds {row['speedup_least']:.2f} to {row['speedup_most']:.2f})"
    )


if __name__ == "__main__":
    main()
