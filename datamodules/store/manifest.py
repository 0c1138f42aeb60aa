"""The manifest of a latent store: its configuration and its files."""

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
    "notes": (list,),
}
# Keys that manifests without a value of them lack, among them all manifests of version 0.1.0.
OPTIONAL = ("notes",)


@dataclass(frozen=True)
class Configuration:
    """The properties that two stores must share before one can replace, or join, the other as training data.

    Args:
        kind: ``moments`` (mean and standard deviation of the codec's posterior) or ``latents``.
        codec: ``Codec.config`` of the codec that made the latents.
        normalization: Normalization under which networks see the latents. The store keeps raw latents.
        resolution: Height and width of the images, in pixels.
        latent_shape: Channels, height and width of one latent.
        dtype: ``float16`` or ``float32``.
        num_classes: Labels lie in ``[0, num_classes)``.
        class_names: One name per class, or empty.

    Raises:
        ValueError: If a value is not allowed, or two values disagree.
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

    def require_equal(self, other: Configuration, own_name: str, other_name: str) -> None:
        """Check that another configuration equals this one.

        Args:
            other: The other configuration.
            own_name: Name in messages of the store of this configuration.
            other_name: Name in messages of the store of the other configuration.

        Raises:
            ValueError: If they differ; the message names the first key that differs.
        """
        own_values, other_values = self.to_dict(), other.to_dict()
        for key in CONFIGURATION_KEYS:
            if own_values[key] != other_values[key]:
                raise ValueError(
                    f"{own_name}: holds a store whose {key} is {own_values[key]!r}, "
                    f"{other_name} has {other_values[key]!r}"
                )


CONFIGURATION_KEYS = tuple(field.name for field in dataclasses.fields(Configuration))


@dataclass(frozen=True)
class Manifest(Configuration):
    """The configuration of a latent store, the number of its samples, and its files.

    Args:
        num_samples: Number of samples.
        shards: Files of the latents, in the order of the samples.
        labels: File of the labels of all samples.
        flipped_shards: Files of the latents of the horizontally flipped images, in the same order; may be empty.
        sources: File of the paths of the source images (``SourcePaths``); ``None`` if the store does not record them.
        source_ends: File of the ends of these paths.
        image_root: Folder, zip file or store that the paths are relative to. A relative ``image_root`` starts at the
            store.
        bad_images: Path and reason of each source image that could not be decoded and is therefore no sample.
        preparation: Settings that the store was made with, if it was made from images.
        notes: Lines for a person about source files that were left out, and about images without labels.

    Raises:
        ValueError: If a value is not allowed, or two values disagree.
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
    notes: tuple[str, ...] = ()

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
        if not all(isinstance(bad, dict) and bad.keys() == {"source", "reason"} for bad in self.bad_images):
            raise ValueError("bad_images must have the keys source and reason")
        for key in ("class_names", "notes"):
            if not all(isinstance(text, str) for text in getattr(self, key)):
                raise ValueError(f"{key} must be a list of texts")

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files of the store but the manifest."""
        paths = () if self.sources is None or self.source_ends is None else (self.sources, self.source_ends)
        return (*self.shards, *self.flipped_shards, self.labels, *paths)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``manifest.json``."""
        config = super().to_dict()
        return {"format_version": FORMAT_VERSION} | {k: v for k, v in config.items() if v or k not in OPTIONAL}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Manifest:
        """Return the manifest with this content.

        Raises:
            ValueError: If a key is missing or unknown, or has a value that is not allowed.
        """
        values = dict(config)
        if (version := values.pop("format_version", None)) != FORMAT_VERSION:
            raise ValueError(
                f"format_version must be {FORMAT_VERSION}, got {version!r}; remove the store and make it anew"
            )
        values = {key: [] for key in OPTIONAL} | values
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
        values["notes"] = tuple(values["notes"])
        for key in ("shards", "flipped_shards"):
            values[key] = tuple(FileEntry.from_dict(key, shard) for shard in values[key])
        for key in ("labels", "sources", "source_ends"):
            values[key] = None if values[key] is None else FileEntry.from_dict(key, values[key])
        return cls(**values)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into a folder, whole or not at all."""
        with atomic_file(folder / FILE_NAME) as file:
            file.write((json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read ``manifest.json`` from a folder.

        Raises:
            FileNotFoundError: If the folder has no ``manifest.json``.
            ValueError: If the file is no valid manifest; the message names the file and the key.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: not a latent store, there is no {FILE_NAME}")
        try:
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except RecursionError as error:
                raise ValueError("nested too deeply") from error
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
