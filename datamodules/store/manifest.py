"""The manifest of a latent store: everything about it that its arrays do not say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.store.file_entry import FileEntry
from meanflow.codecs.normalization import Normalization
from meanflow.files.atomic import atomic_file

FORMAT_VERSION = 2
FILE_NAME = "manifest.json"
KINDS = ("moments", "latents")
DTYPES = ("float16", "float32")

JSON_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "codec": (dict,),
    "normalization": (dict,),
    "resolution": (int,),
    "latent_shape": (list,),
    "dtype": (str,),
    "num_samples": (int,),
    "num_classes": (int,),
    "class_names": (list,),
    "shards": (list,),
    "flipped_shards": (list,),
    "labels": (dict,),
    "sources": (dict, type(None)),
    "source_ends": (dict, type(None)),
    "image_root": (str, type(None)),
    "bad_images": (list,),
    "preparation": (dict, type(None)),
}


@dataclass(frozen=True)
class Configuration:
    """What two stores must share to be interchangeable as training data.

    Args:
        kind: ``moments`` (mean and standard deviation of the codec's posterior) or ``latents``.
        codec: ``Codec.config`` of the codec that made the latents.
        normalization: How a network sees them; the arrays themselves are raw.
        resolution: Height and width of the images, in pixels.
        latent_shape: Channels, height and width of one latent.
        dtype: ``float16`` or ``float32``.
        num_classes: Labels lie in ``[0, num_classes)``.
        class_names: One name per class, or empty.

    Raises:
        ValueError: If a value is not allowed or two disagree.
    """

    kind: str
    codec: dict[str, Any]
    normalization: Normalization
    resolution: int
    latent_shape: tuple[int, int, int]
    dtype: str
    num_classes: int
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {self.kind!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {list(DTYPES)}, got {self.dtype!r}")
        if len(self.latent_shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in self.latent_shape):
            raise ValueError(f"latent_shape must be three positive integers, got {list(self.latent_shape)}")
        for key in ("resolution", "num_classes"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if "name" not in self.codec:
            raise ValueError(f"codec must have the key name, got {self.codec}")
        if self.normalization.num_channels != self.latent_shape[0]:
            raise ValueError(
                f"normalization has {self.normalization.num_channels} channels, latent_shape has {self.latent_shape[0]}"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names has {len(self.class_names)} entries, num_classes is {self.num_classes}")

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape of one sample in a shard: mean and standard deviation are stacked along the channels."""
        channels, height, width = self.latent_shape
        return (2 * channels if self.kind == "moments" else channels, height, width)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON knows them."""
        config = dataclasses.asdict(self) | {"normalization": self.normalization.to_dict()}
        return json.loads(json.dumps(config))

    def require_equal(self, other: Configuration, where: str, there: str) -> None:
        """Check that another configuration is the same.

        Raises:
            ValueError: Naming ``where`` this one is, what it is called ``there``, and the first key that differs.
        """
        old, new = self.to_dict(), other.to_dict()
        for key in CONFIGURATION:
            if old[key] != new[key]:
                raise ValueError(f"{where}: holds a store whose {key} is {old[key]!r}, {there} has {new[key]!r}")


CONFIGURATION = tuple(field.name for field in dataclasses.fields(Configuration))


@dataclass(frozen=True)
class Manifest(Configuration):
    """What a latent store holds, and in which files.

    Args:
        num_samples: Number of samples.
        shards: The files with the latents, in the order of the samples.
        flipped_shards: Likewise, those of the horizontally flipped images; or none.
        labels: The file with the labels of all samples.
        sources: The file with the path of each sample's source image, if it was recorded.
        source_ends: The file that says where each of these paths ends.
        image_root: The folder, zip file or store that these paths are relative to; a relative one starts at the store.
        bad_images: Path and reason of each source image that could not be decoded; they are no samples.
        preparation: The settings that the store was made with, if it was made from images.

    Raises:
        ValueError: If a value is not allowed or two disagree.
    """

    num_samples: int
    shards: tuple[FileEntry, ...]
    labels: FileEntry
    flipped_shards: tuple[FileEntry, ...] = ()
    sources: FileEntry | None = None
    source_ends: FileEntry | None = None
    image_root: str | None = None
    bad_images: tuple[dict[str, str], ...] = ()
    preparation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples}")
        if (self.sources is None) != (self.source_ends is None):
            raise ValueError("sources and source_ends must both be given, or none of them")
        counts = {"shards": sum(shard.num_samples for shard in self.shards), "labels": self.labels.num_samples}
        if self.flipped_shards:
            counts["flipped_shards"] = sum(shard.num_samples for shard in self.flipped_shards)
        if self.sources is not None and self.source_ends is not None:
            counts |= {"sources": self.sources.num_samples, "source_ends": self.source_ends.num_samples}
        for key, count in counts.items():
            if count != self.num_samples:
                raise ValueError(f"{key} hold {count} samples, num_samples is {self.num_samples}")
        if not all(bad.keys() == {"source", "reason"} for bad in self.bad_images):
            raise ValueError("bad_images must have the keys source and reason")

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files that the manifest vouches for."""
        paths = () if self.sources is None or self.source_ends is None else (self.sources, self.source_ends)
        return (*self.shards, *self.flipped_shards, self.labels, *paths)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``manifest.json``."""
        return {"format_version": FORMAT_VERSION, **super().to_dict()}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Manifest:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: If a key is missing, unknown or has a value that is not allowed.
        """
        values = dict(config)
        if (version := values.pop("format_version", None)) != FORMAT_VERSION:
            raise ValueError(
                f"format_version must be {FORMAT_VERSION}, got {version!r}; remove the store and make it anew"
            )
        for problem, keys in (("missing", JSON_TYPES.keys() - values), ("unknown", values.keys() - JSON_TYPES)):
            if keys:
                raise ValueError(f"{problem} keys {sorted(keys)}")
        for key, types in JSON_TYPES.items():
            if not isinstance(values[key], types) or isinstance(values[key], bool):
                raise ValueError(f"{key} must be a JSON {types[0].__name__}, got {values[key]!r}")
        values["normalization"] = Normalization.from_dict(values["normalization"])
        values["latent_shape"] = tuple(values["latent_shape"])
        values["class_names"] = tuple(values["class_names"])
        values["bad_images"] = tuple(values["bad_images"])
        for key in ("shards", "flipped_shards"):
            values[key] = tuple(FileEntry.from_dict(key, shard) for shard in values[key])
        for key in ("labels", "sources", "source_ends"):
            values[key] = None if values[key] is None else FileEntry.from_dict(key, values[key])
        return cls(**values)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into a folder, as a whole or not at all."""
        with atomic_file(folder / FILE_NAME) as file:
            file.write((json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read ``manifest.json`` from a folder.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is not a manifest; the message names the file and the key.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: not a latent store, there is no {FILE_NAME}")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError(f"must hold a JSON object, got a {type(config).__name__}")
            return cls.from_dict(config)
        except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise ValueError(f"{path}: {error}") from error


def read_existing(folder: Path) -> Manifest:
    """Read the manifest of a folder that must be a latent store because a new store was to take its place.

    Raises:
        FileExistsError: If the folder is no valid latent store.
    """
    try:
        return Manifest.read(folder)
    except (FileNotFoundError, ValueError) as error:
        raise FileExistsError(
            f"{folder}: exists already and is no valid latent store; remove it or write elsewhere"
        ) from error


def require_same_configuration(folder: Path, new: Configuration) -> None:
    """Check that the store in a folder can serve in place of a new store.

    Raises:
        FileExistsError: If the folder is no valid latent store, or its configuration differs; the message names the
            first key that differs.
    """
    try:
        read_existing(folder).require_equal(new, str(folder), "the new one")
    except ValueError as error:
        raise FileExistsError(f"{error}; remove it or write elsewhere") from None
