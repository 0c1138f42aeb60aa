"""What is to be encoded, and in which portions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.images.listing import Listing
from datamodules.store.array_file import open_array, write_array
from datamodules.store.file_entry import FileEntry
from datamodules.store.source_paths import SourcePaths, write_paths
from meanflow.codecs import Codec
from meanflow.codecs.normalization import NAMED, Normalization, identity, named
from meanflow.files.atomic import atomic_file

PRECISIONS = ("fp32", "bf16")
FILE_NAME = "plan.json"


@dataclass(frozen=True)
class Settings:
    """Everything that the bytes of a store made from images depend on. A run goes on with the same ones only.

    Args:
        source: Absolute path of the images.
        codec: ``Codec.config``.
        codec_weights: ``Codec.fingerprint()``.
        normalization: How a network is to see the latents: a name, or ``None`` for the codec's scaling factor.
        resolution: Height and width of the images, in pixels.
        dtype: ``float16`` or ``float32``.
        precision: Of the encoder: ``fp32`` (torch's default, TF32 convolutions on recent GPUs) or ``bf16``.
        flipped_copies: Whether the latents of the horizontally flipped images are written as well.
        num_classes: Number of classes, or ``None`` for as many as there are.
        batch_size: Images that are decoded, encoded and kept at a time: what is lost when a run is killed.
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON knows them."""
        return json.loads(json.dumps(asdict(self)))

    def normalization_for(self, codec: Codec) -> Normalization:
        """Return the normalisation of the latents of a codec."""
        channels = codec.latent_shape(self.resolution)[0]
        if self.normalization is None:
            return Normalization((0.0,) * channels, (codec.scaling_factor,) * channels)
        return identity(channels) if self.normalization == "identity" else named(self.normalization)

    def require_equal(self, other: dict[str, Any] | None, where: str) -> None:
        """Check that what was begun with ``other`` settings can be gone on with.

        Raises:
            FileExistsError: If not; names the first setting that differs.
        """
        require_equal_settings(self.to_dict(), other, where, "a store that was not made from images")


def require_equal_settings(
    settings: Mapping[str, Any], other: Mapping[str, Any] | None, where: str, alien: str
) -> None:
    """Check that a job begun with other settings can be gone on with.

    Args:
        settings: What is asked for.
        other: What is there; ``None`` if nothing is known about it.
        where: Where it is.
        alien: What to call it if nothing is known about it.

    Raises:
        FileExistsError: If they differ; names the first setting that does.
    """
    for key, value in settings.items():
        if other is None or other.get(key) != value:
            found = alien if other is None else f"{key}={other.get(key)!r}"
            raise FileExistsError(f"{where}: holds {found}, asked for is {key}={value!r}; remove it or write elsewhere")


@dataclass(frozen=True)
class Part:
    """Images ``[start, stop)``, which are encoded together and kept as one file until their shard is complete."""

    shard: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.shard:05d}-{self.start:09d}.safetensors"


class Plan:
    """The images of a store to be made, divided into shards and those into parts.

    The division depends on the listing and the settings alone, not on how many processes there are or how often they
    are killed: so does the store.

    Args:
        folder: Where ``write`` put it.

    Attributes:
        settings: ``Settings.to_dict()``.
        names: Name of each image.
        labels: Label of each image, int64.
        num_classes: Number of classes.
        class_names: One name per class, or empty.

    Raises:
        FileNotFoundError: If there is no plan.
    """

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        self.settings: dict[str, Any] = content["settings"]
        self.num_classes: int = content["num_classes"]
        self.class_names: tuple[str, ...] = tuple(content["class_names"])
        text, ends, labels = (FileEntry.from_dict(key, content[key]) for key in ("names", "name_ends", "labels"))
        self.names = SourcePaths(folder, text, ends)
        self.labels = np.array(open_array(folder, labels, (), np.dtype("int64")))

    @classmethod
    def write(cls, folder: Path, settings: Settings, listing: Listing) -> Plan:
        """Write the plan of a listing; it appears whole or not at all.

        Raises:
            ValueError: If there are more classes than ``num_classes`` says.
            OSError: If it cannot be written.
        """
        num_classes, class_names = listing.num_classes, listing.class_names
        if settings.num_classes is not None and settings.num_classes != num_classes:
            if settings.num_classes < num_classes or class_names:
                raise ValueError(f"num_classes is {settings.num_classes}, {settings.source} has {num_classes} classes")
            num_classes = settings.num_classes  # labels from a file need not mention the last ones
        text, ends = write_paths(folder, listing.names)
        content = {
            "settings": settings.to_dict(),
            "num_classes": num_classes,
            "class_names": class_names,
            "names": asdict(text),
            "name_ends": asdict(ends),
            "labels": asdict(write_array(folder / "labels.npy", listing.labels)),
        }
        with atomic_file(folder / FILE_NAME) as file:
            file.write(json.dumps(content).encode())
        return cls(folder)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-len(self) // self.settings["shard_size"])

    def parts(self, shard: int) -> list[Part]:
        """Return the parts of a shard, in order."""
        begin, batch_size = shard * self.settings["shard_size"], self.settings["batch_size"]
        end = min(begin + self.settings["shard_size"], len(self))
        return [Part(shard, start, min(start + batch_size, end)) for start in range(begin, end, batch_size)]
