"""Statistics of some of the images of a plan."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save

from datamodules.preparation.bad_images import BadImage
from datamodules.preparation.decoding import DecodedPart
from meanflow.files.atomic import atomic_file
from meanflow.metrics.features.extractor import FeatureExtractor
from meanflow.metrics.reference import ReferenceBuilder


class PartialStatistics:
    """Statistics of some parts of a plan, with a list of these parts.

    Args:
        extractors: Feature extractors.
        chosen: Numbers of the images whose features are kept.

    Attributes:
        builder: The statistics.
        starts: Number of the first image of each part.
        bad: Images that could not be decoded.
        num_enlarged: How many images are smaller than the crop.
        num_rotated: How many images have an EXIF orientation.
    """

    def __init__(self, extractors: Iterable[FeatureExtractor], chosen: Collection[int]) -> None:
        self.builder = ReferenceBuilder(extractors, chosen)
        self.starts: list[int] = []
        self.bad: list[BadImage] = []
        self.num_enlarged = 0
        self.num_rotated = 0

    def add(self, start: int, part: DecodedPart) -> None:
        """Add a part whose first image has the number ``start``.

        Raises:
            ValueError: If a feature is not finite.
        """
        if part.kept:
            self.builder.update(part.pixels, part.kept)
        self.starts.append(start)
        self.bad += part.bad
        self.num_enlarged += part.num_enlarged
        self.num_rotated += part.num_rotated

    def write(self, path: Path) -> None:
        """Write the statistics to a file. If that fails, the file keeps its earlier content.

        Raises:
            OSError: If the disk is full.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self.builder.state().items()}
        tensors |= {"starts": torch.tensor(self.starts, dtype=torch.int64)}
        metadata = {key: json.dumps(getattr(self, key)) for key in ("bad", "num_enlarged", "num_rotated")}
        with atomic_file(path) as file:
            file.write(save(tensors, metadata))

    def merge(self, path: Path) -> None:
        """Add the statistics of a file. Empty statistics become those of the file, to the last bit.

        Raises:
            ValueError: If a part of the file is in these statistics already.
        """
        with safetensors.safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in file.metadata().items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        starts = tensors.pop("starts").tolist()
        if twice := set(starts) & set(self.starts):
            raise ValueError(f"{path}: images from {min(twice)} on are counted already; remove the folder")
        self.starts += starts
        self.bad += [BadImage(*entry) for entry in metadata["bad"]]
        self.num_enlarged += metadata["num_enlarged"]
        self.num_rotated += metadata["num_rotated"]
        self.builder.merge(tensors)


def read_starts(files: Iterable[Path]) -> set[int]:
    """Return the number of the first image of each part in some files of ``PartialStatistics``."""
    starts: set[int] = set()
    for path in files:
        with safetensors.safe_open(path, "pt") as file:
            starts.update(file.get_tensor("starts").tolist())
    return starts
