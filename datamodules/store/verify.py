"""The check of whole latent stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.store.reader import open_store


def verify_store(path: str | Path | Sequence[str]) -> str:
    """Check every checksum, shape, data type, label and latent of a store, or of several stores as one.

    Args:
        path: Folder of the store, or several folders.

    Returns:
        A sentence that describes the store.

    Raises:
        FileNotFoundError: If a store or one of its files does not exist.
        ValueError: If anything is wrong; the message names the first damaged file.
    """
    store = open_store(path)
    store.verify()
    configuration = store.configuration
    return (
        f"{store.name}: in order: {len(store)} samples of {configuration.num_classes} classes, {configuration.kind} "
        f"{' x '.join(map(str, configuration.latent_shape))} {configuration.dtype}, "
        f"codec {configuration.codec['name']}, normalization {configuration.normalization}"
        f"{', with flipped copies' if store.flipped_copies else ''}"
    )
