"""Reading a latent store."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.file_entry import FileEntry
from datamodules.manifest import Manifest
from meanflow import codecs
from meanflow.codecs import Codec


class LatentStore:
    """A folder of memory-mapped latents, as ``LatentStoreWriter`` makes them.

    Opening checks the manifest, the shape, data type and size of every file and the range of the labels, none of which
    reads the latents; ``verify`` reads everything.

    Args:
        path: Folder of the store.

    Attributes:
        manifest: What the store holds.
        labels: Labels of all samples, int64 ``(num_samples,)``.

    Raises:
        FileNotFoundError: If the store or one of its files does not exist.
        ValueError: If a file disagrees with the manifest; the message names the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        dtype = np.dtype(self.manifest.dtype)
        self._shards = [self._open(shard, self.manifest.row_shape, dtype) for shard in self.manifest.shards]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])
        self.labels = torch.from_numpy(np.array(self._open(self.manifest.labels, (), np.dtype("int64"))))
        bad = torch.nonzero((self.labels < 0) | (self.labels >= self.manifest.num_classes))
        if len(bad):
            raise ValueError(
                f"{self.path / self.manifest.labels.file}: the label of sample {bad[0].item()} must lie in "
                f"[0, {self.manifest.num_classes}), got {self.labels[bad[0]].item()}"
            )

    def __len__(self) -> int:
        return self.manifest.num_samples

    @property
    def num_bytes(self) -> int:
        """Size of the latents."""
        return sum(shard.nbytes for shard in self._shards)

    def __reduce__(self) -> tuple[type[LatentStore], tuple[Path]]:
        # A spawned worker maps the files again instead of receiving a copy of them.
        return (LatentStore, (self.path,))

    def gather(self, indices: np.ndarray) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return raw latents and labels of some samples.

        Args:
            indices: Integers ``(B,)`` in ``[0, num_samples)``, in any order.

        Returns:
            Means ``(B, C, h, w)``, standard deviations (``None`` if the store holds latents), both float32, and labels,
            int64 ``(B,)``.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"{self.path}: indices must lie in [0, {len(self)}), got {indices.min()} to {indices.max()}"
            )
        rows = np.empty((len(indices), *self.manifest.row_shape), dtype=np.float32)
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        for shard in np.unique(shard_of):
            here = shard_of == shard
            rows[here] = self._shards[shard][indices[here] - self._starts[shard]]
        y = self.labels[torch.from_numpy(indices)]
        if self.manifest.kind == "latents":
            return torch.from_numpy(rows), None, y
        mean, std = torch.from_numpy(rows).chunk(2, dim=1)
        return mean, std, y

    def codec(self) -> Codec:
        """Build the codec that the manifest names."""
        return codecs.build(self.manifest.codec)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Path of each sample's source image, relative to the manifest's ``image_root``.

        Raises:
            ValueError: If the store does not record them.
        """
        entry = self.manifest.sources
        if entry is None:
            raise ValueError(f"{self.path}: the store does not record its source images, so images=true cannot be met")
        sources = json.loads(entry.path(self.path).read_text(encoding="utf-8"))
        if not isinstance(sources, list) or len(sources) != len(self) or not all(isinstance(s, str) for s in sources):
            raise ValueError(f"{self.path / entry.file}: must be a JSON list of {len(self)} paths")
        return tuple(sources)

    def verify(self) -> None:
        """Read every byte and check checksums, and that all latents are finite and standard deviations not negative.

        Raises:
            ValueError: At the first thing that is wrong; the message names the file.
        """
        for entry in self.manifest.files:
            entry.verify(self.path)
        channels = self.manifest.latent_shape[0]
        for entry, shard, start in zip(self.manifest.shards, self._shards, self._starts[:-1], strict=True):
            for first in range(0, len(shard), 1024):
                rows = shard[first : first + 1024]
                bad = ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
                if bad.any():
                    sample = start + first + bad.argmax()
                    raise ValueError(f"{self.path / entry.file}: the latent of sample {sample} is not finite")
                bad = (rows[:, channels:] < 0).reshape(len(rows), -1).any(axis=1)
                if bad.any():
                    sample = start + first + bad.argmax()
                    raise ValueError(f"{self.path / entry.file}: sample {sample} has a negative standard deviation")
        if self.manifest.sources is not None:
            _ = self.sources

    def _open(self, entry: FileEntry, row_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        path = entry.path(self.path)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: truncated, or not a .npy file ({error})") from error
        expected = (entry.num_samples, *row_shape)
        if not isinstance(array, np.memmap) or array.shape != expected:
            raise ValueError(f"{path}: its shape is {getattr(array, 'shape', None)}, the manifest says {expected}")
        if array.dtype != dtype:
            raise ValueError(f"{path}: its dtype is {array.dtype}, the manifest says {dtype}")
        if path.stat().st_size != array.offset + array.nbytes:
            raise ValueError(f"{path}: has {path.stat().st_size} bytes, its header says {array.offset + array.nbytes}")
        return array
