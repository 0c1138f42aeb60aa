"""Headers of NumPy's ``.npy`` files, compared with the size of the file before memory is taken."""

from __future__ import annotations

import io
import math
from typing import IO, NamedTuple

import numpy as np

LARGEST_HEADER = 1 << 16


class NpyHeader(NamedTuple):
    """The header of an array.

    Attributes:
        shape: Shape of the array.
        dtype: Data type of the array. It holds no objects.
        fortran_order: Whether the first axis varies fastest.
        offset: Position of the first byte of the array, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int


def read_npy_header(file: IO[bytes], size: int, where: object) -> NpyHeader:
    """Read the header of an array, and leave the file at the first byte of the array.

    Args:
        file: File that is open at its start.
        size: Size of the file, in bytes.
        where: Name of the file in messages.

    Raises:
        ValueError: If the file is no ``.npy`` file, holds objects, or has another size than its header states.
    """
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8 or start[6] not in (1, 2, 3):
        raise ValueError(f"{where}: truncated, or not a .npy file")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(prefix := file.read(width), "little")
    if len(prefix) < width or length > min(LARGEST_HEADER, size):
        raise ValueError(f"{where}: truncated, or not a .npy file (its header has {length} bytes)")
    content = file.read(length)
    if len(content) < length:
        raise ValueError(f"{where}: truncated, or not a .npy file (it ends inside its header)")
    shape, fortran_order, dtype = _parse(content, start[6], where)
    offset = 8 + width + length
    needed = offset + math.prod(shape) * dtype.itemsize
    if size != needed:
        problem = "truncated, or not a .npy file: has" if size < needed else "has"
        raise ValueError(f"{where}: {problem} {size} bytes, its header has {needed}")
    return NpyHeader(shape, dtype, fortran_order, offset)


def read_npy(file: IO[bytes], size: int, where: object) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Args:
        file: File that is open at its start.
        size: Size of the file, in bytes.
        where: Name of the file in messages.

    Raises:
        ValueError: If the file is no ``.npy`` file, holds objects, or has another size than its header states.
    """
    header = read_npy_header(file, size, where)
    content = bytearray(file.read(size - header.offset))
    if len(content) != size - header.offset:
        raise ValueError(f"{where}: truncated: it ends after {header.offset + len(content)} of {size} bytes")
    flat: np.ndarray = np.frombuffer(content, dtype=header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


def _parse(content: bytes, version: int, where: object) -> tuple[tuple[int, ...], bool, np.dtype]:
    width = 2 if version == 1 else 4
    file = io.BytesIO(len(content).to_bytes(width, "little") + content)
    read = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read(file)
    except Exception as error:  # a damaged header makes Python's parser raise almost any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: truncated, or not a .npy file ({reason})") from error
    if dtype.hasobject or dtype.itemsize == 0 or any(n < 0 for n in shape):
        raise ValueError(f"{where}: truncated, or not a .npy file of numbers (shape {shape}, data type {dtype})")
    return shape, fortran_order, dtype
