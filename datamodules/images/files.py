"""Access to images by name, in a folder, a zip file or a store of pixels."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import Image

from datamodules.images.formats import (
    SIGNATURE_BYTES,
    SUFFIXES,
    UnreadableImageError,
    decode_image,
    open_image,
    short_of_memory,
)
from datamodules.store.manifest import FILE_NAME
from datamodules.store.reader import LatentStore
from meanflow.codecs import round_to_uint8
from meanflow.files.inside import inside, require_relative

Result = TypeVar("Result")

# No image of PIL.Image.MAX_IMAGE_PIXELS pixels needs a larger file.
LARGEST_FILE = 2**29

HIDDEN = "hidden files"
SEEN = "links to folders that are listed already or that hold the source"
BROKEN = "links that lead to nothing"
SPECIAL = "pipes and devices"
LINKS = "links in the zip file"
FORBIDDEN = "folders that must not be read"


class ImageFiles(ABC):
    """Images by name.

    Attributes:
        path: Path of the folder, zip file or store.
    """

    path: Path

    @abstractmethod
    def open(self, name: str) -> Image.Image:
        """Open an image. Pillow may find damage only later, when it decodes the pixels.

        Raises:
            FileNotFoundError: If there is no file of this name.
            OSError: If the disk cannot be read, or memory is short.
            UnreadableImageError: If the file is no image.
            ValueError: If the name leads out of the folder.
        """

    def decode(self, name: str, function: Callable[[Image.Image], Result]) -> Result:
        """Open an image, and return the value of a function that decodes the image.

        The exceptions are those of ``open``. A damaged image raises ``UnreadableImageError``.
        """
        with self.open(name) as image:
            return decode_image(image, function, self.path / name)


@dataclass
class FileList:
    """The files of a folder or a zip file.

    Attributes:
        names: Names of regular files and of folders. ``/`` separates folders; the name of a folder ends in ``/``.
        left_out: Names of other files, by the reason why they are left out.
    """

    names: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        """Add a name that is left out."""
        self.left_out.setdefault(reason, []).append(name)


class EncodedFiles(ImageFiles):
    """Images in the usual formats, one in each file."""

    @abstractmethod
    def list_files(self) -> FileList:
        """List all files.

        Raises:
            OSError: If the disk cannot be read.
            ValueError: If the zip file is damaged, or a name in it leads out of it.
        """

    @abstractmethod
    def read(self, name: str, size: int | None = None) -> bytes:
        """Return the content of a file, or the first ``size`` bytes. The exceptions are those of ``open``."""

    def beginning(self, name: str) -> bytes:
        """Return the bytes at which ``has_signature`` looks, or nothing if they cannot be read."""
        try:
            return self.read(name, SIGNATURE_BYTES)
        except ValueError:
            return b""

    def open(self, name: str) -> Image.Image:
        """Open an image."""
        try:
            return open_image(self.read(name))
        except MemoryError as error:
            raise short_of_memory(self.path / name) from error


class FolderFiles(EncodedFiles):
    """Files in a folder and its subfolders.

    Links to files and folders are followed, wherever they lead: class folders may lie on other disks. Every folder is
    listed once, under the name without links if it has one. Pipes and devices are left out.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def list_files(self) -> FileList:
        """Walk the folder. Folders come first, then the folders that links in them lead to, and so on."""
        found = FileList()
        root = self.path.resolve()
        seen = {_identity(folder) for folder in (root, *root.parents)}
        prefixes = [""]
        while prefixes:
            links: list[str] = []
            while prefixes:
                prefix = prefixes.pop()
                for name, entry in self._entries(prefix, found):
                    if entry.is_symlink():
                        links.append(name)
                    elif entry.is_dir(follow_symlinks=False):
                        self._enter(name, seen, found, prefixes)
                    elif entry.is_file(follow_symlinks=False):
                        found.names.append(name)
                    else:
                        found.leave_out(SPECIAL, name)
            for name in sorted(links):
                try:
                    mode = (self.path / name).stat().st_mode
                except FileNotFoundError:
                    found.leave_out(BROKEN, name)
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
                    found.leave_out(BROKEN, name)
                else:
                    if stat.S_ISDIR(mode):
                        self._enter(name, seen, found, prefixes)
                    elif stat.S_ISREG(mode):
                        found.names.append(name)
                    else:
                        found.leave_out(SPECIAL, name)
        return found

    def _enter(self, name: str, seen: set[tuple[int, int]], found: FileList, prefixes: list[str]) -> None:
        identity = _identity(self.path / name)
        if identity in seen:
            found.leave_out(SEEN, name)
            return
        seen.add(identity)
        found.names.append(f"{name}/")
        prefixes.append(f"{name}/")

    def _entries(self, prefix: str, found: FileList) -> list[tuple[str, os.DirEntry[str]]]:
        """Return names and entries of a folder that are not hidden."""
        try:
            with os.scandir(self.path / prefix) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except PermissionError:
            found.leave_out(FORBIDDEN, prefix)
            return []
        for entry in entries:
            if entry.name.startswith(".") and PurePosixPath(entry.name).suffix.lower() in SUFFIXES:
                found.leave_out(HIDDEN, prefix + entry.name)
        return [(prefix + entry.name, entry) for entry in entries if not entry.name.startswith(".")]

    def read(self, name: str, size: int | None = None) -> bytes:
        """Return the content of a file."""
        with open(inside(self.path, name, follow_links=True), "rb") as file:
            if size is None:
                _require_small(os.fstat(file.fileno()).st_size)
            return file.read(size)


class ZipFiles(EncodedFiles):
    """Files in a zip file. Every process opens the zip file for itself, because processes must not share a handle.

    Backslashes in names count as ``/``, and ``./`` at the start of a name does not count, as when the file is unpacked.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self._renamed: dict[str, zipfile.ZipInfo] = {}
        self._process = 0

    def __reduce__(self) -> tuple[type[ZipFiles], tuple[Path]]:
        return (ZipFiles, (self.path,))

    @property
    def archive(self) -> zipfile.ZipFile:
        """The open zip file.

        Raises:
            ValueError: If the zip file is damaged, holds a name twice, or names a file outside of itself.
        """
        if self._archive is None or self._process != os.getpid():
            self._archive = open_zip(self.path)
            entries = self._archive.infolist()
            names = [plain_name(entry.filename, self.path) for entry in entries]
            self._renamed = {n: entry for n, entry in zip(names, entries, strict=True) if n != entry.filename}
            files = [name for name in names if not name.endswith("/")]
            if twice := len(files) - len(set(files)):
                raise ValueError(f"{self.path}: holds {twice} files whose names stand in it more than once")
            self._process = os.getpid()
        return self._archive

    def list_files(self) -> FileList:
        """Return the names in the zip file."""
        found = FileList()
        new_names = {entry.filename: name for name, entry in self._renamed.items()} if self.archive else {}
        for entry in self.archive.infolist():
            name = new_names.get(entry.filename, entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if stat.S_ISLNK(kind):
                found.leave_out(LINKS, name)
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                found.leave_out(SPECIAL, name)
            elif name.strip("/"):
                found.names.append(name)
        return found

    def read(self, name: str, size: int | None = None) -> bytes:
        """Return the content of a file."""
        archive = self.archive
        plain = plain_name(name, self.path)
        entry = archive.NameToInfo.get(plain) or self._renamed.get(plain)
        if entry is None:
            raise FileNotFoundError(f"{self.path}: there is no {name} in it")
        try:
            return read_member(archive, entry, size)
        except UnreadableImageError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # a wrong checksum, a password, an unknown compression
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise OSError(error.errno, f"{self.path}: {error.strerror}") from error
            raise UnreadableImageError((str(error).splitlines() or [type(error).__name__])[0]) from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file.

    Raises:
        OSError: If the disk cannot be read.
        ValueError: If the zip file is damaged.
    """
    try:
        return zipfile.ZipFile(path)
    except MemoryError as error:
        raise short_of_memory(path) from error
    except Exception as error:  # of many types: the parser of zip files believes every number
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(f"{path}: truncated, or not a zip file ({error})") from error


def read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int | None = None) -> bytes:
    """Return the content of a file in a zip file, or its first ``size`` bytes, without taking more memory than that.

    Raises:
        UnreadableImageError: If the file is larger than any image.
        Exception: Any exception of ``zipfile``, if the file is damaged.
    """
    if size is None:
        _require_small(entry.file_size)
        size = entry.file_size
    # bzip2 and LZMA unpack all that they are given, up to 20,000 times as much: they are given little at a time.
    step = size if entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 4096
    content = bytearray()
    with archive.open(entry) as file:
        while len(content) < size and (part := file.read(min(step, size - len(content)))):
            content += part
    return bytes(content)


def plain_name(name: str, where: str | Path) -> str:
    """Return a name with ``/`` between folders and without ``.`` among them.

    Raises:
        ValueError: If the name is absolute or holds ``..``.
    """
    if "\\" not in name and not name.startswith((".", "/")) and not any(part in name for part in ("//", "/.", ":")):
        return name
    name = require_relative(name, where).replace("\\", "/")
    folder = "/" if name.endswith("/") else ""
    return "/".join(part for part in name.split("/") if part not in ("", ".")) + folder


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _require_small(size: int) -> None:
    if size > LARGEST_FILE:
        raise UnreadableImageError(f"the file has {size} bytes, more than any image of a size that is decoded")


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

    def names(self) -> list[str]:
        """Return the numbers of the samples."""
        return [str(sample) for sample in range(len(self.store))]

    def open(self, name: str) -> Image.Image:
        """Return an image, gray or RGB."""
        if not name.isdecimal() or int(name) >= len(self.store):
            raise FileNotFoundError(f"{self.path}: there is no sample {name} in it")
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
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: must be a folder or a zip file, and is neither (or a truncated zip file)")
    return ZipFiles(path)
