"""The paths of the source images, one for each sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from datamodules.store.array_file import open_array, write_array
from datamodules.store.file_entry import FileEntry
from meanflow.files.atomic import atomic_file

TEXT, ENDS = "sources.txt", "source_ends.npy"


class SourcePaths(Sequence[str]):
    """Memory-mapped paths. ``sources.txt`` holds one path a line; ``source_ends.npy`` holds the end of each line.

    A million paths as Python strings would take 100 MB in every process that reads ahead. All processes share one
    memory map.

    Args:
        folder: Folder of the two files.
        text: Entry of ``sources.txt``.
        ends: Entry of ``source_ends.npy``: the position of the newline of each path, in bytes.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the files disagree with their entries or with each other.
    """

    def __init__(self, folder: Path, text: FileEntry, ends: FileEntry) -> None:
        path = text.path(folder)
        self._ends = open_array(folder, ends, (), np.dtype("int64"))
        if self._ends[0] < 0 or (np.diff(self._ends) < 1).any():
            raise ValueError(f"{folder / ends.file}: the ends of the paths do not increase")
        if path.stat().st_size != self._ends[-1] + 1:
            raise ValueError(f"{path}: has {path.stat().st_size} bytes, {ends.file} has {self._ends[-1] + 1}")
        self._text = np.memmap(path, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        begin = self._ends[index - 1] + 1 if index else 0
        return self._text[begin : self._ends[index]].tobytes().decode("utf-8", "surrogateescape")


def write_paths(folder: Path, paths: Iterable[str]) -> tuple[FileEntry, FileEntry]:
    """Write paths, and return the entries of ``sources.txt`` and ``source_ends.npy``.

    Raises:
        OSError: If a file cannot be written.
    """
    ends, end = [], -1
    with atomic_file(folder / TEXT) as file:
        for path in paths:
            line = path.encode("utf-8", "surrogateescape")  # the operating system allows any bytes in a path
            file.write(line + b"\n")
            end += len(line) + 1
            ends.append(end)
    return FileEntry.of(folder / TEXT, len(ends)), write_array(folder / ENDS, np.array(ends, dtype=np.int64))
