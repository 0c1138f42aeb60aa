"""Access to images by name, in a folder, a zip file or a store of pixels."""

from __future__ import annotations

import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.store.manifest import FILE_NAME
from datamodules.store.reader import LatentStore
from meanflow.codecs import round_to_uint8


class ImageFiles(ABC):
    """Images by name.

    Attributes:
        path: Path of the folder, zip file or store.
    """

    path: Path

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Return the names of all files and folders. ``/`` separates folders; the name of a folder ends in ``/``."""

    @abstractmethod
    def open(self, name: str) -> Image.Image:
        """Open an image. Pillow may find damage only later, when it decodes the pixels.

        Raises:
            FileNotFoundError: If there is no file of this name.
            OSError: If the disk cannot be read.
            UnreadableImageError: If the file is no image.
        """


class UnreadableImageError(ValueError):
    """Pillow cannot read the bytes of a file as an image."""


class EncodedFiles(ImageFiles):
    """Images in the usual formats, one in each file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file. The exceptions are those of ``open``."""

    def open(self, name: str) -> Image.Image:
        """Open an image."""
        content = io.BytesIO(self.read(name))
        try:
            return Image.open(content)
        except Image.UnidentifiedImageError:  # its message holds an address in memory
            raise UnreadableImageError("empty file" if not content.getvalue() else "no known image format") from None
        except Exception as error:
            raise UnreadableImageError(str(error)) from error


class FolderFiles(EncodedFiles):
    """Files in a folder and its subfolders."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def names(self) -> Iterable[str]:
        """Walk the folder, and follow links."""
        for folder, folders, files in os.walk(self.path, followlinks=True):
            prefix = "" if (below := os.path.relpath(folder, self.path)) == "." else Path(below).as_posix() + "/"
            yield from (f"{prefix}{name}" for name in files)
            yield from (f"{prefix}{name}/" for name in folders)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.path / name).read_bytes()


class ZipFiles(EncodedFiles):
    """Files in a zip file. Every process opens the zip file for itself, because processes must not share a handle."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def __reduce__(self) -> tuple[type[ZipFiles], tuple[Path]]:
        return (ZipFiles, (self.path,))

    @property
    def archive(self) -> zipfile.ZipFile:
        """The open zip file.

        Raises:
            ValueError: If the zip file is damaged.
        """
        if self._archive is None or self._process != os.getpid():
            try:
                self._archive = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise ValueError(f"{self.path}: truncated, or not a zip file ({error})") from error
            self._process = os.getpid()
        return self._archive

    def names(self) -> Iterable[str]:
        """Return the names in the zip file."""
        return self.archive.namelist()

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        try:
            return self.archive.read(name)
        except KeyError:
            raise FileNotFoundError(f"{self.path}: there is no {name} in it") from None
        except zipfile.BadZipFile as error:  # a checksum is wrong
            raise UnreadableImageError(str(error)) from error


class PixelStore(ImageFiles):
    """The images of a store of pixels (codec ``identity``). Their names are ``0``, ``1`` and so on.

    Raises:
        ValueError: If the store holds latents of another codec.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.store = LatentStore(path)
        if (codec := self.store.configuration.codec)["name"] != "identity":
            raise ValueError(
                f"{path}: holds latents of the codec {codec['name']}; only pixels (identity) can be encoded"
            )

    def names(self) -> Iterable[str]:
        """Return the numbers of the samples."""
        return map(str, range(len(self.store)))

    def open(self, name: str) -> Image.Image:
        """Return an image, gray or RGB."""
        images, _, _ = self.store.gather(np.array([int(name)]))
        pixels = round_to_uint8(images[0]).numpy()
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def open_image_files(path: str | Path) -> ImageFiles:
    """Open a folder, a zip file or a store of pixels.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ValueError: If ``path`` is a file of another kind, or damaged.
    """
    path = Path(path)
    if (path / FILE_NAME).is_file():
        return PixelStore(path)
    if path.is_dir():
        return FolderFiles(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder or zip file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: must be a folder or a zip file, and is neither (or a truncated zip file)")
    return ZipFiles(path)
