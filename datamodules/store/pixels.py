"""Small image data sets that are written as a store of pixels on first use."""

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

    Of several processes that come here at once, one writes the store; ``open_pixels`` tells all of them what is there.

    Args:
        path: Folder to be made.
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
    path: str | Path, resolution: int, num_samples: int, class_names: Sequence[str], what: str
) -> LatentStore:
    """Open the store of an embedded data set.

    Args:
        path: Folder of the store.
        resolution: Height and width of the images.
        num_samples: Number of images.
        class_names: One name per class.
        what: What to call the data set in messages.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If it holds a damaged store.
    """
    store = LatentStore(path)
    found = store.configuration
    expected = ("identity", resolution, tuple(class_names), num_samples)
    if (found.codec["name"], found.resolution, found.class_names, len(store)) != expected:
        raise FileExistsError(f"{path}: holds a store of something else than {what}; remove it or choose another path")
    return store
