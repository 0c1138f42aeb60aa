"""The plan of reference statistics: the images, divided into parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from datamodules.images.listing import ImageNames
from datamodules.preparation.plan import Plan, Settings, write_plan
from meanflow import random_streams


@dataclass(frozen=True)
class StatisticsSettings(Settings):
    """Everything that the statistics depend on.

    Args:
        source: Absolute path of the images.
        images: ``RealImages.origin``.
        resolution: Height and width of the images.
        features: sha256 of the weights of each feature extractor by its name; ``None`` if it has no weights.
        num_features: Number of images whose features are kept.
        batch_size: Images in a part. A part is decoded at once, and goes through the extractors at once.

    Raises:
        ValueError: If a value is not allowed.
    """

    source: str
    images: Mapping[str, Any]
    resolution: int
    features: Mapping[str, str | None]
    num_features: int
    batch_size: int

    foreign: ClassVar[str] = "statistics that were not made from images"

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("features must name at least one extractor, as features=[inception], got []")
        if self.num_features < 0:
            raise ValueError(f"num_features must be at least 0, got {self.num_features}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON knows them. The keys of ``images`` stand beside the other settings."""
        settings = asdict(self)
        return json.loads(json.dumps({"source": self.source, **settings.pop("images"), **settings}))


class StatisticsPlan(Plan):
    """The images that statistics are taken over, divided into parts.

    The division, and the choice of the images whose features are kept, depend on the number of images and the settings
    only.

    Args:
        folder: Folder into which ``write`` wrote the plan.

    Raises:
        FileNotFoundError: If the folder has no plan.
    """

    @classmethod
    def write(cls, folder: Path, settings: StatisticsSettings, images: ImageNames) -> StatisticsPlan:
        """Write the plan for these images, and return it.

        Raises:
            OSError: If a file cannot be written.
        """
        write_plan(folder, settings, images.names, notes=images.notes)
        return cls(folder)

    def parts(self) -> list[range]:
        """Return the numbers of the images of each part, in order."""
        size = self.settings["batch_size"]
        return [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]

    @cached_property
    def chosen(self) -> frozenset[int]:
        """Numbers of the images whose features are kept: a random choice that depends on the number of images only."""
        order = torch.randperm(len(self), generator=random_streams.generator(0, purpose=random_streams.CHOICE))
        return frozenset(order[: self.settings["num_features"]].tolist())
