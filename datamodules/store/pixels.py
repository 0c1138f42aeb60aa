"""Stores of pixels, as which small image data sets are written on first use."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from datamodules.store.reader import LatentStore
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity


def write_pixels(path: str | Path, images: Tensor, y: Tensor, class_names: Sequence[str]) -> None:
    """Write images as a store of the codec ``identity``, in float16.

    Several processes may call this at once: one of them writes the store, and ``open_pixels`` checks it in all of them.

    Args:
        path: Folder of the new store.
        images: float32 ``(N, C, H, H)`` in [-1, 1].
        y: Labels, int64 ``(N,)``.
        class_names: One name per class.
    """
    codec = IdentityCodec(images.shape[1])
    with (
        suppress(FileExistsError),
        LatentStoreWriter(
            path,
            kind="latents",
            codec=codec.config,
            normalization=identity(codec.channels),
            resolution=images.shape[-1],
            latent_shape=images.shape[1:],
            num_classes=len(class_names),
            class_names=class_names,
        ) as writer,
    ):
        writer.append(codec.encode(images).mean, None, y)


def open_pixels(
    path: str | Path, resolution: int, num_samples: int, class_names: Sequence[str], title: str
) -> LatentStore:
    """Open the store of a small image data set, and check that it holds this data set.

    Args:
        path: Folder of the store.
        resolution: Height and width of the images.
        num_samples: Number of images.
        class_names: One name per class.
        title: Name of the data set in messages.

    Raises:
        FileExistsError: If the folder holds another store.
        ValueError: If the folder holds a damaged store.
    """
    store = LatentStore(path)
    found = store.configuration
    expected = ("identity", resolution, tuple(class_names), num_samples)
    if (found.codec["name"], found.resolution, found.class_names, len(store)) != expected:
        raise FileExistsError(f"{path}: holds a store of something else than {title}; remove it or choose another path")
    return store
