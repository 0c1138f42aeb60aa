"""The check of a whole latent store."""

from __future__ import annotations

from pathlib import Path

from datamodules.store import LatentStore


def verify_store(path: str | Path) -> str:
    """Check every checksum, shape, data type, label and latent of a store.

    Args:
        path: Folder of the store.

    Returns:
        A sentence that says what is there.

    Raises:
        FileNotFoundError: If the store or one of its files does not exist.
        ValueError: At the first thing that is wrong; the message names the file.
    """
    store = LatentStore(path)
    store.verify()
    manifest = store.manifest
    return (
        f"{path}: in order: {manifest.num_samples} samples of {manifest.num_classes} classes, {manifest.kind} "
        f"{' x '.join(map(str, manifest.latent_shape))} {manifest.dtype}, codec {manifest.codec['name']}, "
        f"normalization {manifest.normalization}"
    )
