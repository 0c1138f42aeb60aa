"""Images in a ``.npz`` file, as ADM's reference and sample batches hold them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

KEY = "arr_0"


def reference_images(path: str | Path, batch_size: int) -> Iterator[Tensor]:
    """Stream the images ``arr_0`` of a ``.npz`` file; no more than a batch is in memory.

    Args:
        path: The file, compressed or not. The array is uint8 ``(N, H, W, 1 or 3)``.
        batch_size: Images in a batch; the last one may have fewer.

    Yields:
        uint8 ``(B, 1 or 3, H, W)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has no such array.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no images at {path}")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{KEY}.npy") as file:
            num_images, *shape = _image_shape(file, path)
            image_size = int(np.prod(shape))
            for start in range(0, num_images, batch_size):
                size = min(batch_size, num_images - start)
                content = file.read(size * image_size)
                if len(content) < size * image_size:
                    raise EOFError(f"{KEY} ends before image {start + size}")
                images = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(size, *shape)
                yield images.permute(0, 3, 1, 2).contiguous()
    except KeyError:
        raise ValueError(f"{path} holds no images: it has no {KEY}") from None
    except (EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _image_shape(file: IO[bytes], path: Path) -> tuple[int, ...]:
    """Read the header of a ``.npy`` file and return the shape of the images in it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or fortran_order:
        raise ValueError(f"{path}: {KEY} must be uint8 (N, H, W, 1 or 3) in C order, got {dtype} {shape}")
    return shape
