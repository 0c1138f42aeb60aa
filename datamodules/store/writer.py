"""Writing latent stores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.store.array_file import not_finite, write_array
from datamodules.store.file_entry import FileEntry
from datamodules.store.manifest import Configuration, Manifest, require_same_configuration
from datamodules.store.source_paths import write_paths
from meanflow.codecs.normalization import Normalization


class LatentStoreWriter:
    """Context manager that writes a latent store batch by batch.

    Mean and standard deviation of a sample lie side by side, ``(2 C, h, w)``: one random read fetches both. Files go
    into a hidden folder beside ``path``. The folder gets its final name when the last byte is on the disk, and is
    removed if anything fails. A visible store is therefore complete.

    Args:
        path: Folder of the new store.
        kind: ``moments`` or ``latents``.
        codec: ``Codec.config`` of the codec that made the latents.
        normalization: Normalization under which networks see the latents. The store keeps raw latents.
        resolution: Height and width of the images, in pixels.
        latent_shape: Channels, height and width of one latent.
        num_classes: Labels must lie in ``[0, num_classes)``.
        class_names: One name per class, or empty.
        dtype: ``float16`` or ``float32``.
        image_root: Folder that source paths are relative to. A relative ``image_root`` starts at the store.
        notes: Lines for a person, which the manifest keeps.
        shard_size: Samples in a shard; the last one may have fewer.

    Raises:
        FileExistsError: If ``path`` exists.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: str,
        codec: Mapping[str, Any],
        normalization: Normalization,
        resolution: int,
        latent_shape: Sequence[int],
        num_classes: int,
        class_names: Sequence[str] = (),
        dtype: str = "float16",
        image_root: str | None = None,
        notes: Sequence[str] = (),
        shard_size: int = 16384,
    ) -> None:
        self.path = Path(path)
        if shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {shard_size}")
        self.shard_size = shard_size
        self.image_root = image_root
        self.notes = tuple(notes)
        channels, height, width = latent_shape
        self.configuration = Configuration(
            kind=kind,
            codec=dict(codec),
            normalization=normalization,
            resolution=resolution,
            latent_shape=(channels, height, width),
            dtype=dtype,
            num_classes=num_classes,
            class_names=tuple(class_names),
        )
        if self.path.exists():
            require_same_configuration(self.path, self.configuration)
            raise FileExistsError(
                f"{self.path}: holds a finished store of this configuration; remove it to write it again"
            )
        self._rows: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._sources: list[str] = []
        self._shards: list[FileEntry] = []
        self._num_samples = 0

    def __enter__(self) -> LatentStoreWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", suffix=".partial", dir=self.path.parent))
        self._folder.chmod(0o755)  # mkdtemp lets nobody else read it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, mean: Tensor, std: Tensor | None, y: Tensor, sources: Sequence[str] = ()) -> None:
        """Add a batch.

        Args:
            mean: Raw latents ``(B, C, h, w)``, or means of posteriors over raw latents.
            std: Standard deviations of the posteriors ``(B, C, h, w)``; ``None`` for a store of latents.
            y: Labels, integers ``(B,)``.
            sources: Path of each sample's source image, relative to ``image_root``; for all batches or for none.

        Raises:
            ValueError: If shapes disagree, a latent is not finite in the data type of the store, or a label is no
                class; the message names the sample.
        """
        if (std is not None) != (self.configuration.kind == "moments"):
            raise ValueError(
                f"std must {'not ' if std is not None else ''}be given for a store of {self.configuration.kind}"
            )
        rows = mean if std is None else torch.cat([mean, std], dim=1)
        expected = (len(y), *self.configuration.row_shape)
        if tuple(rows.shape) != expected:
            raise ValueError(
                f"a batch of {len(y)} labels must have latents of the shape {expected}, got {tuple(rows.shape)}"
            )
        with_sources = bool(self._sources) if self._num_samples else bool(sources)
        if len(sources) != (len(y) if with_sources else 0):
            raise ValueError(
                f"sources must be given for all samples or for none, got {len(sources)} for {len(y)} samples"
            )
        array = rows.detach().cpu().to(getattr(torch, self.configuration.dtype)).numpy()
        if len(bad := not_finite(array)):
            raise ValueError(
                f"sample {self._num_samples + bad[0]}: the latent is not finite in {self.configuration.dtype}"
            )
        labels = y.detach().cpu().to(torch.int64).numpy()
        bad = np.flatnonzero((labels < 0) | (labels >= self.configuration.num_classes))
        if len(bad):
            raise ValueError(
                f"sample {self._num_samples + bad[0]}: the label must lie in [0, {self.configuration.num_classes}), "
                f"got {labels[bad[0]]}"
            )
        self._rows.append(array)
        self._labels.append(labels)
        self._sources.extend(sources)
        self._num_samples += len(labels)
        while sum(map(len, self._rows)) >= self.shard_size:
            self._write_shard()

    def _write_shard(self) -> None:
        rows = np.concatenate(self._rows)
        self._rows = [rows[self.shard_size :]] if len(rows) > self.shard_size else []
        path = self._folder / f"shard-{len(self._shards):05d}.npy"
        self._shards.append(write_array(path, rows[: self.shard_size]))

    def _finish(self) -> None:
        if self._num_samples == 0:
            raise ValueError(f"{self.path}: a store must have at least one sample")
        if self._rows:
            self._write_shard()
        sources, source_ends = write_paths(self._folder, self._sources) if self._sources else (None, None)
        manifest = Manifest(
            **vars(self.configuration),
            num_samples=self._num_samples,
            shards=tuple(self._shards),
            labels=write_array(self._folder / "labels.npy", np.concatenate(self._labels)),
            sources=sources,
            source_ends=source_ends,
            image_root=self.image_root,
            notes=self.notes,
        )
        manifest.write(self._folder)
        try:
            os.rename(self._folder, self.path)
        except OSError:
            if not self.path.exists():
                raise
            # Another process was faster. Its store will do if it has the same configuration.
            require_same_configuration(self.path, manifest)
