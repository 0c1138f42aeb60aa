"""The plan of a store: its images, divided into shards, and every shard divided into parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.images.listing import Listing
from datamodules.preparation.plan import Plan, Settings, write_plan
from datamodules.store.array_file import open_array, write_array
from datamodules.store.file_entry import FileEntry
from meanflow.codecs import Codec
from meanflow.codecs.normalization import NAMED, Normalization, identity, named

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class LatentSettings(Settings):
    """Everything that the bytes of a store made from images depend on.

    Args:
        source: Absolute path of the images.
        codec: ``Codec.config``.
        codec_weights: ``Codec.fingerprint()``.
        normalization: Name of the normalization of the latents, or ``None`` for the codec's scaling factor.
        resolution: Height and width of the images, in pixels.
        dtype: ``float16`` or ``float32``.
        precision: Precision of the encoder: ``fp32`` (torch's default, TF32 convolutions on recent GPUs) or ``bf16``.
        flipped_copies: Whether the store also holds the latents of the horizontally flipped images.
        num_classes: Number of classes, or ``None`` for the number that the labels show.
        batch_size: Images in a part. A part is decoded, encoded and written at once; a killed run loses one part.
        shard_size: Images in a shard.

    Raises:
        ValueError: If a value is not allowed.
    """

    source: str
    codec: dict[str, Any]
    codec_weights: str
    normalization: str | None
    resolution: int
    dtype: str
    precision: str
    flipped_copies: bool
    num_classes: int | None
    batch_size: int
    shard_size: int

    foreign: ClassVar[str] = "a store that was not made from images"

    def __post_init__(self) -> None:
        if self.normalization not in (None, "identity", *NAMED):
            raise ValueError(
                f"normalization must be null, identity or one of {sorted(NAMED)}, got {self.normalization!r}"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {self.precision!r}")
        for key in ("resolution", "batch_size", "shard_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")

    def normalization_for(self, codec: Codec) -> Normalization:
        """Return the normalization of the latents of a codec."""
        channels = codec.latent_shape(self.resolution)[0]
        if self.normalization is None:
            return Normalization((0.0,) * channels, (codec.scaling_factor,) * channels)
        return identity(channels) if self.normalization == "identity" else named(self.normalization)


@dataclass(frozen=True)
class Part:
    """Images ``[start, stop)`` of a shard. One file keeps their latents until the shard is complete."""

    shard: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.shard:05d}-{self.start:09d}.safetensors"


class LatentPlan(Plan):
    """The images of a store with their labels, divided into shards, and every shard divided into parts.

    The division depends on the listing and the settings only. The bytes of the store therefore do not depend on the
    number of processes, or on how often they are killed.

    Args:
        folder: Folder into which ``write`` wrote the plan.

    Attributes:
        labels: Label of each image, int64.
        num_classes: Number of classes.
        class_names: One name per class, or empty.

    Raises:
        FileNotFoundError: If the folder has no plan.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.num_classes: int = self.content["num_classes"]
        self.class_names: tuple[str, ...] = tuple(self.content["class_names"])
        labels = FileEntry.from_dict("labels", self.content["labels"])
        self.labels = np.array(open_array(folder, labels, (), np.dtype("int64")))

    @classmethod
    def write(cls, folder: Path, settings: LatentSettings, listing: Listing) -> LatentPlan:
        """Write the plan for the images of a listing, and return it.

        Raises:
            ValueError: If the listing has more classes than ``settings.num_classes``.
            OSError: If a file cannot be written.
        """
        num_classes, class_names = listing.num_classes, listing.class_names
        if settings.num_classes is not None and settings.num_classes != num_classes:
            if settings.num_classes < num_classes or class_names:
                raise ValueError(f"num_classes is {settings.num_classes}, {settings.source} has {num_classes} classes")
            num_classes = settings.num_classes  # the last classes need not occur among the labels of a dataset.json
        write_plan(
            folder,
            settings,
            listing.names,
            num_classes=num_classes,
            class_names=class_names,
            notes=listing.notes,
            labels=asdict(write_array(folder / "labels.npy", listing.labels)),
        )
        return cls(folder)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-len(self) // self.settings["shard_size"])

    def parts(self, shard: int) -> list[Part]:
        """Return the parts of a shard, in order."""
        begin, batch_size = shard * self.settings["shard_size"], self.settings["batch_size"]
        end = min(begin + self.settings["shard_size"], len(self))
        return [Part(shard, start, min(start + batch_size, end)) for start in range(begin, end, batch_size)]
