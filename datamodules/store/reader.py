"""Reading latent stores: one folder, or several as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.store.array_file import not_finite, open_array
from datamodules.store.file_entry import FileEntry
from datamodules.store.manifest import Configuration, Manifest
from datamodules.store.source_paths import SourcePaths
from meanflow import codecs
from meanflow.codecs import Codec
from meanflow.codecs.normalization import Normalization

# Rows that are checked at once when a store is verified.
BLOCK = 1024
# Rows that are gathered, widened and normalized at once: so few that they stay in the cache from step to step.
CACHED = 32


class Store(ABC):
    """Latents with labels, in one folder (``LatentStore``) or in several (``ConcatenatedStores``).

    Attributes:
        name: Name in messages.
        configuration: Configuration that all folders share.
        labels: Labels of all samples, int64 ``(num_samples,)``.
        flipped_copies: Whether the store also holds the latents of the horizontally flipped images.
        parts: The store of each folder.
    """

    name: str
    configuration: Configuration
    labels: Tensor
    flipped_copies: bool
    parts: Sequence[LatentStore]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Size of the latents, in bytes."""

    @abstractmethod
    def rows(self, indices: np.ndarray, flipped: bool = False) -> np.ndarray:
        """Return raw latents ``(B, *row_shape)`` in the data type of the store, mean and standard deviation stacked.

        Args:
            indices: Numbers of the samples ``(B,)`` in ``[0, num_samples)``, in any order.
            flipped: Return the latents of the horizontally flipped images instead.

        Raises:
            IndexError: If an index is out of range.
            ValueError: If ``flipped`` is true and the store has no flipped copies.
        """

    @abstractmethod
    def verify(self, advance: Callable[[int], None] = lambda num_bytes: None) -> None:
        """Read every byte. Check all checksums, that latents are finite, and that standard deviations are not negative.

        Args:
            advance: Function that is called with the size of a file, in bytes, when the file has been read.

        Raises:
            ValueError: If a check fails; the message names the file.
        """

    def gather(self, indices: np.ndarray, flipped: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return raw latents and labels of some samples. The arguments are those of ``rows``.

        Returns:
            Means (or latents), float32 ``(B, C, h, w)``; standard deviations of the same shape, or ``None`` for a store
            of latents; labels, int64 ``(B,)``.
        """
        return self._gather(indices, flipped, None)

    def gather_normalized(self, indices: np.ndarray, flipped: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return what ``gather`` returns, with normalized means and standard deviations."""
        normalization = self.configuration.normalization
        if self.configuration.kind == "moments":
            normalization = normalization.with_std()
        return self._gather(indices, flipped, normalization)

    def _gather(
        self, indices: np.ndarray, flipped: bool, normalization: Normalization | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        indices = np.asarray(indices, dtype=np.int64)
        rows = torch.empty((len(indices), *self.configuration.row_shape))
        parameters = None if normalization is None else normalization.parameters(rows)
        for start in range(0, len(indices), CACHED):
            part = rows[start : start + CACHED]
            part.copy_(torch.from_numpy(self.rows(indices[start : start + CACHED], flipped)))
            if parameters is not None:
                shift, scale = parameters
                part.sub_(shift).mul_(scale)
        y = self.labels[torch.from_numpy(indices)]
        if self.configuration.kind == "latents":
            return rows, None, y
        mean, std = rows.chunk(2, dim=1)
        return mean, std, y

    def codec(self) -> Codec:
        """Return the codec that made the latents."""
        return codecs.build(self.configuration.codec)

    def _checked(self, indices: np.ndarray, flipped: bool) -> np.ndarray:
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"{self.name}: indices must lie in [0, {len(self)}), got {indices.min()} to {indices.max()}"
            )
        if flipped and not self.flipped_copies:
            raise ValueError(f"{self.name}: there are no flipped copies; make them with flipped_copies=true")
        return indices


class LatentStore(Store):
    """A folder of memory-mapped latents, which ``LatentStoreWriter`` or ``prepare_latents`` wrote.

    Opening a store checks the manifest, the range of the labels, and shape, data type and size of every file. It does
    not read the latents; ``verify`` does.

    Args:
        path: Folder of the store.

    Attributes:
        manifest: The manifest.

    Raises:
        FileNotFoundError: If the store or one of its files does not exist.
        ValueError: If a file disagrees with the manifest; the message names the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.manifest = self.configuration = Manifest.read(self.path)
        self.parts = (self,)
        self._shards = self._open_shards(self.manifest.shards)
        self._flipped_shards = self._open_shards(self.manifest.flipped_shards)
        self.flipped_copies = bool(self._flipped_shards)
        self._starts = np.cumsum([0, *map(len, self._shards)])
        self.labels = torch.from_numpy(np.array(open_array(self.path, self.manifest.labels, (), np.dtype("int64"))))
        bad = torch.nonzero((self.labels < 0) | (self.labels >= self.manifest.num_classes))
        if len(bad):
            raise ValueError(
                f"{self.path / self.manifest.labels.file}: the label of sample {bad[0].item()} must lie in "
                f"[0, {self.manifest.num_classes}), got {self.labels[bad[0]].item()}"
            )

    @property
    def num_bytes(self) -> int:
        """Size of the latents, in bytes."""
        return sum(shard.nbytes for shard in (*self._shards, *self._flipped_shards))

    def __reduce__(self) -> tuple[type[LatentStore], tuple[Path]]:
        # A spawned worker process maps the files again. It does not receive a copy of them.
        return (LatentStore, (self.path,))

    def rows(self, indices: np.ndarray, flipped: bool = False) -> np.ndarray:
        """Return raw latents ``(B, *row_shape)`` in the data type of the store."""
        indices = self._checked(indices, flipped)
        shards = self._flipped_shards if flipped else self._shards
        # Rows keep the data type of the store: gathering and widening at once takes ten times as long. Copying row by
        # row is as fast as indexing a shard with many rows, and the rows of a batch lie in nearly as many shards.
        rows = np.empty((len(indices), *self.manifest.row_shape), dtype=self.manifest.dtype)
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        in_shard = indices - self._starts[shard_of]
        for row, (shard, index) in enumerate(zip(shard_of.tolist(), in_shard.tolist(), strict=True)):
            rows[row] = shards[shard][index]
        return rows

    @cached_property
    def sources(self) -> SourcePaths:
        """Path of each sample's source image, relative to ``image_root`` of the manifest.

        Raises:
            ValueError: If the store does not record these paths.
        """
        if self.manifest.sources is None or self.manifest.source_ends is None:
            raise ValueError(f"{self.path}: the store does not record its source images, which images=true needs")
        return SourcePaths(self.path, self.manifest.sources, self.manifest.source_ends)

    def verify(self, advance: Callable[[int], None] = lambda num_bytes: None) -> None:
        """Read every byte and check it."""
        for entry in self.manifest.files:
            entry.verify(self.path)
            advance(entry.path(self.path).stat().st_size)
        for entries, shards in (
            (self.manifest.shards, self._shards),
            (self.manifest.flipped_shards, self._flipped_shards),
        ):
            for entry, shard, start in zip(entries, shards, self._starts, strict=False):
                self._verify_rows(entry, shard, start)
        if self.manifest.sources is not None:
            _ = self.sources

    def _verify_rows(self, entry: FileEntry, shard: np.ndarray, start: int) -> None:
        channels = self.manifest.latent_shape[0]
        for first in range(0, len(shard), BLOCK):
            rows = shard[first : first + BLOCK]
            if len(bad := not_finite(rows)):
                sample = start + first + bad[0]
                raise ValueError(f"{self.path / entry.file}: the latent of sample {sample} is not finite")
            negative = (rows[:, channels:] < 0).reshape(len(rows), -1).any(axis=1)
            if negative.any():
                sample = start + first + negative.argmax()
                raise ValueError(f"{self.path / entry.file}: sample {sample} has a negative standard deviation")

    def _open_shards(self, entries: Sequence[FileEntry]) -> list[np.ndarray]:
        dtype = np.dtype(self.manifest.dtype)
        # Plain arrays, which are views of the maps: np.memmap would make an object for every row.
        return [np.asarray(open_array(self.path, entry, self.manifest.row_shape, dtype)) for entry in entries]


class ConcatenatedStores(Store):
    """Several stores as one: the samples of the first store, then the samples of the second, and so on.

    Args:
        parts: The stores, at least one.

    Raises:
        ValueError: If the stores differ in configuration, or only some of them have flipped copies.
    """

    def __init__(self, parts: Sequence[LatentStore]) -> None:
        first = parts[0]
        self.name = f"[{', '.join(part.name for part in parts)}]"
        self.parts = tuple(parts)
        self.configuration = first.configuration
        self.flipped_copies = first.flipped_copies
        for part in parts[1:]:
            part.configuration.require_equal(first.configuration, part.name, first.name)
            if part.flipped_copies != first.flipped_copies:
                raise ValueError(f"{part.name} and {first.name}: only one of them has flipped copies")
        self.labels = torch.cat([part.labels for part in parts])
        self._starts = np.cumsum([0, *map(len, parts)])

    @property
    def num_bytes(self) -> int:
        """Size of the latents, in bytes."""
        return sum(part.num_bytes for part in self.parts)

    def rows(self, indices: np.ndarray, flipped: bool = False) -> np.ndarray:
        """Return raw latents ``(B, *row_shape)`` in the data type of the store."""
        indices = self._checked(indices, flipped)
        rows = np.empty((len(indices), *self.configuration.row_shape), dtype=self.configuration.dtype)
        part_of = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(part_of):
            here = np.flatnonzero(part_of == number)
            rows[here] = self.parts[number].rows(indices[here] - self._starts[number], flipped)
        return rows

    def verify(self, advance: Callable[[int], None] = lambda num_bytes: None) -> None:
        """Read every byte and check it."""
        for part in self.parts:
            part.verify(advance)


def open_store(path: str | Path | Sequence[str | Path]) -> Store:
    """Open the store in a folder, or the stores in several folders as one.

    Raises:
        FileNotFoundError: If a store or one of its files does not exist.
        ValueError: If a store is damaged, the stores do not go together, or the list is empty.
    """
    if isinstance(path, str | Path):
        return LatentStore(path)
    if not path:
        raise ValueError("store must name at least one folder, got an empty list")
    stores = [LatentStore(part) for part in path]
    return stores[0] if len(stores) == 1 else ConcatenatedStores(stores)
