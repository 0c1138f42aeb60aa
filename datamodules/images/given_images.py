"""Images that are scored as they are, from a folder, a zip file or a NumPy file of samples."""

from __future__ import annotations

import itertools
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.crop import convert_mode
from datamodules.images.files import EncodedFiles, FolderFiles, ZipFiles, open_zip
from datamodules.images.formats import UnreadableImageError
from datamodules.images.listing import list_unlabeled
from datamodules.images.read_ahead import read_ahead
from meanflow.files.npz_images import ARRAY, NpzImages


class GivenImages(ABC):
    """Square images of one size.

    Attributes:
        path: Path of the folder or file.
        notes: Lines for a person about files that are left out, and about conversions that the images went through.
    """

    path: Path
    notes: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Sequence[int]]]:
        """Yield batches of this rank's images, uint8 ``(B, 1 or 3, H, W)``, with the numbers of the images.

        Raises:
            ValueError: If an image cannot be decoded, is not square, or differs in size from the first image.
        """


class ImageFolder(GivenImages):
    """The images of a folder or zip file, in the order of ``list_unlabeled``.

    All images become RGB as in ``crop_image``.

    Args:
        files: Folder or zip file.
        batch_size: Images in a batch.
        num_workers: Processes that decode. ``None`` starts one for each core but one; 0 decodes in this process.

    Raises:
        ValueError: If the folder or zip file has no images, or the first image cannot be opened.
    """

    def __init__(self, files: EncodedFiles, batch_size: int, num_workers: int | None) -> None:
        self.files = files
        self.path = files.path
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.names, left_out = list_unlabeled(files)
        self.notes = [f"{self.path}: {note}" for note in left_out]
        try:
            first = files.open(self.names[0])
        except UnreadableImageError as error:
            raise ValueError(f"{self.path}/{self.names[0]} cannot be decoded: {error}") from None
        with first:
            self.size = first.size
            if first.mode != "RGB":
                self.notes.append(f"{self.path}: images of the mode {first.mode} are made RGB")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Sequence[int]]]:
        """Yield batches of this rank's images with the numbers of the images."""
        numbers = range(rank, len(self), world_size)
        parts = [numbers[start : start + self.batch_size] for start in range(0, len(numbers), self.batch_size)]
        decoded = _DecodedParts(self.files, self.names, self.size, parts)
        yield from zip(read_ahead(decoded, self.num_workers, pin_memory=False), parts, strict=True)


class _DecodedParts(Dataset[Tensor]):
    """Decoded batches of images."""

    def __init__(
        self, files: EncodedFiles, names: Sequence[str], size: tuple[int, int], parts: Sequence[Sequence[int]]
    ) -> None:
        self.files = files
        self.names = names
        self.size = size
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Tensor:
        return torch.stack([self._decode(self.names[number]) for number in self.parts[index]])

    def _decode(self, name: str) -> Tensor:
        where = f"{self.files.path}/{name}"
        try:
            pixels = self.files.decode(name, lambda image: torch.from_numpy(np.array(convert_mode(image))))
        except UnreadableImageError as error:
            raise ValueError(f"{where} cannot be decoded: {error}") from None
        height, width = pixels.shape[:2]
        if (width, height) != self.size:
            raise ValueError(f"{where} has {width} x {height} pixels, {self.names[0]} {self.size[0]} x {self.size[1]}")
        require_square(width, height, where)
        return pixels.permute(2, 0, 1)


class ImageArray(GivenImages):
    """The images of a NumPy file of samples.

    Args:
        path: The file.
        batch_size: Images in a batch.

    Raises:
        ValueError: If the file has no images.
    """

    def __init__(self, path: Path, batch_size: int) -> None:
        self.path = path
        self.batch_size = batch_size
        self.notes = []
        self.array = NpzImages(path)
        _, height, width, _ = self.array.shape
        require_square(width, height, str(path))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.array)

    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Sequence[int]]]:
        """Yield every ``world_size``-th batch of the file with the numbers of the images."""
        yield from itertools.islice(self.array.batches(self.batch_size), rank, None, world_size)


def require_square(width: int, height: int, where: str) -> None:
    """Check that an image is square. Feature extractors would distort other images.

    Raises:
        ValueError: If width and height differ.
    """
    if width != height:
        raise ValueError(f"{where} has {width} x {height} pixels; images must be square, crop them first")


def open_given_images(path: str | Path, batch_size: int = 256, num_workers: int | None = None) -> GivenImages:
    """Open a folder or zip file of images, or a NumPy file of samples.

    Args:
        path: Folder, ``.zip`` file or ``.npz`` file.
        batch_size: Images in a batch.
        num_workers: Processes that decode. ``None`` starts one for each core but one; 0 decodes in this process.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ValueError: If ``path`` has no images, or is a file of another kind.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(FolderFiles(path), batch_size, num_workers)
    if not path.exists():
        raise FileNotFoundError(f"images={path}: there is no such folder, zip or npz file")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(f"images={path} must be a folder, a zip file or an npz file (or it is truncated)")
    if path.suffix == ".npz" or f"{ARRAY}.npy" in open_zip(path).namelist():
        return ImageArray(path, batch_size)
    return ImageFolder(ZipFiles(path), batch_size, num_workers)
