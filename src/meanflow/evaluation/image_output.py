"""Images that an evaluation leaves on the disk, when asked to."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from meanflow.display.image_grid import image_grid
from meanflow.distributed import barrier, is_distributed
from meanflow.files.atomic import atomic_file


class ImageOutput(ABC):
    """Takes the images of a sample as they come. Every rank has one, on a common file system."""

    @abstractmethod
    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Take images, uint8 ``(B, C, H, W)``, with their numbers in the sample."""

    @abstractmethod
    def finish(self) -> None:
        """Complete what is on the disk; all ranks must call it."""


class PngFolder(ImageOutput):
    """One PNG file per image, ``000000.png`` and so on.

    Args:
        folder: New folder, or an empty one.

    Raises:
        FileExistsError: If there are files in it: images of two samples would mix.
    """

    def __init__(self, folder: Path, is_first_rank: bool = True) -> None:
        self.folder = folder
        if is_first_rank:
            if folder.exists() and any(folder.iterdir()):
                raise FileExistsError(f"{folder} is not empty; remove it, or set save_to to another folder")
            folder.mkdir(parents=True, exist_ok=True)
        barrier()

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Write them."""
        for image, index in zip(images.cpu(), indices, strict=True):
            pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
            Image.fromarray(pixels.numpy()).save(self.folder / f"{index:06d}.png")

    def finish(self) -> None:
        """Wait for the others."""
        barrier()


class NpzFile(ImageOutput):
    """One file in the format of ADM's samples: ``arr_0``, uint8 ``(N, H, W, C)``, and the labels as ``arr_1``.

    The images go through a file of their full size beside it, which all ranks write into.

    Args:
        path: File to write; it appears when it is complete.
        labels: Label of every image, int64 ``(N,)``.
        is_first_rank: Whether this process makes the file.
    """

    def __init__(self, path: Path, labels: Tensor, is_first_rank: bool = True) -> None:
        self.path = path
        self.labels = labels
        self.is_first_rank = is_first_rank
        self.images_file = path.with_suffix(".arr_0.npy.partial")
        self._array: Any = None

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Write them into the common file."""
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        if self._array is None:
            self._array = self._open((len(self.labels), *pixels.shape[1:]))
        self._array[list(indices)] = pixels

    def _open(self, shape: tuple[int, ...]) -> Any:
        """Make the common file, once every rank has images; then open it."""
        if self.is_first_rank:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(self.images_file, mode="w+", dtype=np.uint8, shape=shape)
        barrier()
        return np.lib.format.open_memmap(self.images_file, mode="r+")

    def finish(self) -> None:
        """Put images and labels into the final file."""
        if self._array is None:
            barrier()  # the others met here when they opened the file
        else:
            self._array.flush()
        barrier()
        if not self.is_first_rank:
            return
        with atomic_file(self.path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.write(self.images_file, "arr_0.npy")
            with archive.open("arr_1.npy", "w") as member:
                np.lib.format.write_array(member, self.labels.numpy(), allow_pickle=False)
        self.images_file.unlink()


class GridFile(ImageOutput):
    """The first images as one PNG file.

    Args:
        path: File to write.
        num_images: How many of them.
        num_columns: Images per row.
        is_first_rank: Whether this process writes.
    """

    def __init__(self, path: Path, num_images: int = 100, num_columns: int = 10, is_first_rank: bool = True) -> None:
        self.path = path
        self.num_images = num_images
        self.num_columns = num_columns
        self.is_first_rank = is_first_rank
        self._images: dict[int, Tensor] = {}

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Keep those among the first."""
        for row, index in enumerate(indices):
            if index < self.num_images:
                self._images[index] = images[row].cpu()

    def picture(self) -> Image.Image:
        """Return the picture of the images of all ranks; all ranks must call it."""
        images = self._images
        if is_distributed():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, images)
            images = {index: image for part in parts for index, image in part.items()}
        return image_grid(torch.stack([images[index] for index in sorted(images)]), self.num_columns)

    def finish(self) -> None:
        """Draw the picture."""
        picture = self.picture()
        if self.is_first_rank:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as file:
                picture.save(file, format="PNG")
