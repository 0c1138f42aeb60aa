"""Images in a NumPy archive. ADM's programs keep samples in this format."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from meanflow.files.npy import read_npy_header

ARRAY = "arr_0"
LARGEST_PART = 2**28
# What ``zipfile`` raises for damaged files, and for files with a password or an unknown compression.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error)


class NpzImages:
    """The images of an ``.npz`` file: the array ``arr_0``, uint8 ``(N, H, W, 1 or 3)``. The file is read in parts.

    A part takes at most ``LARGEST_PART`` bytes, whatever the file says of itself.

    Args:
        path: The file.

    Attributes:
        shape: Shape of the array.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, has no such array, or the array has another type or shape.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if ARRAY not in names:
                    raise ValueError(f"{self.path}: images must be in the array {ARRAY}; there are {names}")
                self.size = archive.getinfo(f"{ARRAY}.npy").file_size
                with archive.open(f"{ARRAY}.npy") as member:
                    self.shape = self._read_header(member)
        except DAMAGE as error:
            raise ValueError(f"{self.path} is damaged, or no NumPy archive: {error}") from error

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, range]]:
        """Yield images, uint8 ``(batch_size or fewer, 1 or 3, H, W)``, with their numbers.

        Raises:
            ValueError: If the file is truncated or damaged.
        """
        num_images, *shape = self.shape
        size = math.prod(shape)
        batch_size = max(1, min(batch_size, LARGEST_PART // size))
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{ARRAY}.npy") as member:
            self._read_header(member)
            for start in range(0, num_images, batch_size):
                numbers = range(start, min(start + batch_size, num_images))
                try:
                    content = bytearray(member.read(size * len(numbers)))
                except DAMAGE as error:
                    raise ValueError(f"{self.path} is damaged: {error}") from error
                if len(content) != size * len(numbers):
                    raise ValueError(f"{self.path}: {ARRAY} ends after {start} of {num_images} images")
                pixels = np.frombuffer(content, dtype=np.uint8).reshape(len(numbers), *shape)
                yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), numbers

    def _read_header(self, member: IO[bytes]) -> tuple[int, ...]:
        shape, dtype, fortran_order, _ = read_npy_header(member, self.size, f"{self.path}: {ARRAY}")
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or fortran_order:
            raise ValueError(
                f"{self.path}: {ARRAY} must be uint8 of shape (N, H, W, 1 or 3) in C order, got {dtype} {shape}"
            )
        if math.prod(shape) == 0:
            raise ValueError(f"{self.path}: there are no images in it, its shape is {shape}")
        if math.prod(shape[1:]) > LARGEST_PART:
            raise ValueError(f"{self.path}: an image of {shape[1]} x {shape[2]} pixels is too large")
        return shape
