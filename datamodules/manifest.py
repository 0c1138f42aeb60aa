"""The manifest of a latent store: everything about it that its arrays do not say."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.file_entry import FileEntry
from meanflow.normalization import Normalization

FORMAT_VERSION = 1
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
    "labels": (dict,),
    "sources": (dict, type(None)),
    "image_root": (str, type(None)),
}
# What two stores must share to be interchangeable as training data.
CONFIGURATION = ("kind", "codec", "normalization", "resolution", "latent_shape", "dtype", "num_classes", "class_names")


@dataclass(frozen=True)
class Manifest:
    """What a latent store holds.

    Args:
        kind: ``moments`` (mean and standard deviation of the codec's posterior) or ``latents``.
        codec: ``Codec.config`` of the codec that made the latents.
        normalization: How a network sees them; the arrays themselves are raw.
        resolution: Height and width of the images, in pixels.
        latent_shape: Channels, height and width of one latent.
        dtype: ``float16`` or ``float32``.
        num_samples: Number of samples.
        num_classes: Labels lie in ``[0, num_classes)``.
        class_names: One name per class, or empty.
        shards: The files with the latents, in the order of the samples.
        labels: The file with the labels of all samples.
        sources: The file with the path of each sample's source image, if it was recorded.
        image_root: The folder that these paths are relative to; a relative one starts at the store.

    Raises:
        ValueError: If a value is not allowed or two disagree.
    """

    kind: str
    codec: dict[str, Any]
    normalization: Normalization
    resolution: int
    latent_shape: tuple[int, int, int]
    dtype: str
    num_samples: int
    num_classes: int
    class_names: tuple[str, ...]
    shards: tuple[FileEntry, ...]
    labels: FileEntry
    sources: FileEntry | None = None
    image_root: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {self.kind!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {list(DTYPES)}, got {self.dtype!r}")
        if len(self.latent_shape) != 3 or not all(isinstance(n, int) and n >= 1 for n in self.latent_shape):
            raise ValueError(f"latent_shape must be three positive integers, got {list(self.latent_shape)}")
        for key in ("resolution", "num_samples", "num_classes"):
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
        counts = {"shards": sum(shard.num_samples for shard in self.shards), "labels": self.labels.num_samples}
        if self.sources is not None:
            counts["sources"] = self.sources.num_samples
        for key, count in counts.items():
            if count != self.num_samples:
                raise ValueError(f"{key} hold {count} samples, num_samples is {self.num_samples}")

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape of one sample in a shard: mean and standard deviation are stacked along the channels."""
        channels, height, width = self.latent_shape
        return (2 * channels if self.kind == "moments" else channels, height, width)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All files that the manifest vouches for."""
        return (*self.shards, self.labels, *([self.sources] if self.sources is not None else []))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``manifest.json``."""
        config = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        config["normalization"] = self.normalization.to_dict()
        return json.loads(json.dumps(config))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Manifest:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: If a key is missing, unknown or has a value that is not allowed.
        """
        values = dict(config)
        if (version := values.pop("format_version", None)) != FORMAT_VERSION:
            raise ValueError(f"format_version must be {FORMAT_VERSION}, got {version!r}")
        for problem, keys in (("missing", JSON_TYPES.keys() - values), ("unknown", values.keys() - JSON_TYPES)):
            if keys:
                raise ValueError(f"{problem} keys {sorted(keys)}")
        for key, types in JSON_TYPES.items():
            if not isinstance(values[key], types) or isinstance(values[key], bool):
                raise ValueError(f"{key} must be a JSON {types[0].__name__}, got {values[key]!r}")
        values["normalization"] = Normalization.from_dict(values["normalization"])
        values["latent_shape"] = tuple(values["latent_shape"])
        values["class_names"] = tuple(values["class_names"])
        values["shards"] = tuple(FileEntry.from_dict("shards", shard) for shard in values["shards"])
        values["labels"] = FileEntry.from_dict("labels", values["labels"])
        values["sources"] = None if values["sources"] is None else FileEntry.from_dict("sources", values["sources"])
        return cls(**values)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into a folder, as a whole or not at all."""
        partial = folder / f".{FILE_NAME}.partial"
        partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / FILE_NAME)

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


def require_same_configuration(folder: Path, new: Manifest) -> None:
    """Check that an existing store could stand for a new one.

    Raises:
        FileExistsError: If the folder is no latent store, or one of another configuration; names the differing key.
    """
    try:
        old = Manifest.read(folder).to_dict()
    except (FileNotFoundError, ValueError) as error:
        raise FileExistsError(
            f"{folder}: exists already and is no valid latent store; remove it or write elsewhere"
        ) from error
    for key in CONFIGURATION:
        if old[key] != new.to_dict()[key]:
            raise FileExistsError(
                f"{folder}: holds a store whose {key} is {old[key]!r}, the new one has {new.to_dict()[key]!r}; "
                "remove it or write elsewhere"
            )
