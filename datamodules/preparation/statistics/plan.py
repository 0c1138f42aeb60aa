"""Which images statistics are taken over, and in which portions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from datamodules.preparation.latents.plan import FILE_NAME, require_equal_settings
from datamodules.store.file_entry import FileEntry
from datamodules.store.source_paths import SourcePaths, write_paths
from meanflow import random_streams
from meanflow.files.atomic import atomic_file


@dataclass(frozen=True)
class StatisticsSettings:
    """Everything that statistics depend on. A run goes on with the same ones only.

    Args:
        source: Absolute path of the images.
        images: ``RealImages.about``.
        resolution: Height and width of the images.
        features: sha256 of the weights of each feature extractor by its name; ``None`` if it has none.
        num_features: Images whose features are kept.
        batch_size: Images that are decoded together and go through the extractors together.

    Raises:
        ValueError: If a value is not allowed.
    """

    source: str
    images: Mapping[str, Any]
    resolution: int
    features: Mapping[str, str | None]
    num_features: int
    batch_size: int

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("features must name at least one extractor, as features=[inception], got []")
        if self.num_features < 0:
            raise ValueError(f"num_features must be at least 0, got {self.num_features}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON knows them."""
        settings = asdict(self)
        return json.loads(json.dumps({"source": self.source, **settings.pop("images"), **settings}))

    def require_equal(self, other: Mapping[str, Any] | None, where: str) -> None:
        """Check that statistics begun with ``other`` settings can be gone on with.

        Raises:
            FileExistsError: If not; names the first setting that differs.
        """
        require_equal_settings(self.to_dict(), other, where, "statistics that were not made from images")


class StatisticsPlan:
    """The images that statistics are taken over, divided into parts.

    The division depends on the images and the settings alone, as do the images whose features are kept.

    Args:
        folder: Where ``write`` put it.

    Attributes:
        settings: ``StatisticsSettings.to_dict()``.
        names: Name of each image.
        names_sha256: Checksum of the names.

    Raises:
        FileNotFoundError: If there is no plan.
    """

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        self.settings: dict[str, Any] = content["settings"]
        text, ends = (FileEntry.from_dict(key, content[key]) for key in ("names", "name_ends"))
        self.names = SourcePaths(folder, text, ends)
        self.names_sha256 = text.sha256

    @classmethod
    def write(cls, folder: Path, settings: StatisticsSettings, names: list[str]) -> StatisticsPlan:
        """Write the plan for images of these names; it appears whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        text, ends = write_paths(folder, names)
        content = {"settings": settings.to_dict(), "names": asdict(text), "name_ends": asdict(ends)}
        with atomic_file(folder / FILE_NAME) as file:
            file.write(json.dumps(content).encode())
        return cls(folder)

    def __len__(self) -> int:
        return len(self.names)

    def parts(self) -> list[range]:
        """Return the numbers of the images of each part, in order."""
        size = self.settings["batch_size"]
        return [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]

    @cached_property
    def chosen(self) -> frozenset[int]:
        """Numbers of the images whose features are kept: a random choice, a function of the number of images."""
        order = torch.randperm(len(self), generator=random_streams.generator(0, purpose=random_streams.CHOICE))
        return frozenset(order[: self.settings["num_features"]].tolist())
