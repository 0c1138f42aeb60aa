"""Files in which an evaluation keeps images."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from meanflow.display.image_grid import image_grid
from meanflow.distributed import Ranks, barrier, is_distributed
from meanflow.files.atomic import atomic_file


class ImageOutput(ABC):
    """Keeps the images of a sample, batch by batch. Every rank has an output. All ranks share a file system."""

    @abstractmethod
    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Keep images, uint8 ``(B, C, H, W)``, with their numbers in the sample."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the files. All ranks must call this method."""


class PngFolder(ImageOutput):
    """One PNG file per image, ``000000.png`` and so on.

    Args:
        folder: A new or an empty folder.
        is_first_rank: Whether this process makes the folder.

    Raises:
        FileExistsError: If the folder has files. Images of two samples would mix.
    """

    def __init__(self, folder: Path, is_first_rank: bool = True) -> None:
        self.folder = folder
        if is_first_rank:
            if folder.exists() and any(folder.iterdir()):
                raise FileExistsError(f"{folder} is not empty; remove it, or set save_to to another folder")
            folder.mkdir(parents=True, exist_ok=True)
        barrier()

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Write the images."""
        for image, index in zip(images.cpu(), indices, strict=True):
            pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
            Image.fromarray(pixels.numpy()).save(self.folder / f"{index:06d}.png")

    def finish(self) -> None:
        """Wait for the other ranks."""
        barrier()


class NpzFile(ImageOutput):
    """One file in the format of ADM's samples: ``arr_0``, uint8 ``(N, H, W, C)``, and the labels as ``arr_1``.

    All ranks write the images into a scratch file of the full size. The last step copies that file into the archive.

    Args:
        path: File to write. It appears when it is complete.
        labels: Label of every image, int64 ``(N,)``.
        is_first_rank: Whether this process makes the file.
    """

    def __init__(self, path: Path, labels: Tensor, is_first_rank: bool = True) -> None:
        self.path = path
        self.labels = labels
        self.is_first_rank = is_first_rank
        self.images_file = path.with_suffix(".arr_0.npy.partial")
        self._array: np.memmap | None = None

    def add(self, images: Tensor, indices: Sequence[int]) -> None:
        """Write the images into the scratch file."""
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        if self._array is None:
            self._array = self._open((len(self.labels), *pixels.shape[1:]))
        self._array[list(indices)] = pixels

    def _open(self, shape: tuple[int, ...]) -> np.memmap:
        """Make the scratch file as soon as every rank has images, then open it."""
        if self.is_first_rank:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(self.images_file, mode="w+", dtype=np.uint8, shape=shape)
        barrier()
        return np.lib.format.open_memmap(self.images_file, mode="r+")

    def finish(self) -> None:
        """Put images and labels into the archive."""
        if self._array is None:
            barrier()  # this rank has no images; the ranks with images wait for it in _open
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
        num_images: Number of images.
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
        """Keep the images with numbers below ``num_images``."""
        for row, index in enumerate(indices):
            if index < self.num_images:
                self._images[index] = images[row].cpu()

    def picture(self) -> Image.Image:
        """Return the picture of the images of all ranks. All ranks must call this method."""
        images = self._images
        if is_distributed():
            parts: list[dict[int, Tensor]] = [{}] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, images)
            images = {index: image for part in parts for index, image in part.items()}
        return image_grid(torch.stack([images[index] for index in sorted(images)]), self.num_columns)

    def finish(self) -> None:
        """Write the picture."""
        picture = self.picture()
        if self.is_first_rank:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as file:
                picture.save(file, format="PNG")


# Constructors of the outputs that ``save=KIND`` names. Arguments: the folder, the labels of all samples, and whether
# the rank is the first one.
OUTPUTS: Mapping[str, Callable[[Path, Tensor, bool], ImageOutput]] = {
    "grid": lambda folder, labels, first: GridFile(folder / "grid.png", is_first_rank=first),
    "png": lambda folder, labels, first: PngFolder(folder / "png", is_first_rank=first),
    "npz": lambda folder, labels, first: NpzFile(folder / "samples.npz", labels, is_first_rank=first),
}


def require_output_kinds(kinds: Sequence[str]) -> None:
    """Check that each kind of output is known.

    Raises:
        ValueError: If a kind is unknown.
    """
    if unknown := [kind for kind in kinds if kind not in OUTPUTS]:
        raise ValueError(f"save must be among {list(OUTPUTS)}, got {unknown[0]!r}")


def image_outputs(kinds: Sequence[str], folder: Path, labels: Tensor, ranks: Ranks) -> list[ImageOutput]:
    """Return outputs of these kinds that write into a folder."""
    return [OUTPUTS[kind](folder, labels, ranks.rank == 0) for kind in kinds]
