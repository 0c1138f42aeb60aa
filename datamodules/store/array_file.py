"""The arrays of a latent store, one in each file.

The format is ``.npy``. NumPy memory-maps such a file by documented means, its header states shape and data type, and
reading it executes nothing. Random rows are read as fast as from safetensors (docs/log.md), and NumPy alone can open
the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from datamodules.store.file_entry import FileEntry
from meanflow.files.atomic import atomic_file
from meanflow.files.npy import read_npy_header


def write_array(path: Path, array: np.ndarray) -> FileEntry:
    """Write an array to a file, whole or not at all, and return the entry of the file.

    Raises:
        OSError: If the disk is full, or the operating system fails in another way.
    """
    array = np.ascontiguousarray(array)
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)  # not array.tofile, whose errors name no reason
    return FileEntry.of(path, len(array))


def open_array(folder: Path, entry: FileEntry, row_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory-map the array of an entry.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the file is truncated, or differs from the manifest in shape, data type or size; the message
            names the file.
    """
    path = entry.path(folder)
    with open(path, "rb") as file:
        header = read_npy_header(file, os.fstat(file.fileno()).st_size, path)
        expected = (entry.num_samples, *row_shape)
        if header.shape != expected or header.fortran_order:
            order = ", the first axis varies fastest" if header.fortran_order else ""
            raise ValueError(f"{path}: its shape is {header.shape}{order}, the manifest has {expected}")
        if header.dtype != dtype:
            raise ValueError(f"{path}: its dtype is {header.dtype}, the manifest has {dtype}")
        return np.memmap(file, dtype=dtype, mode="r", offset=header.offset, shape=expected)


def not_finite(rows: np.ndarray) -> np.ndarray:
    """Return the indices of the rows in which a value is not finite."""
    return np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
