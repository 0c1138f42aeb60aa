"""Files that appear when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a scratch file for writing, and rename it to ``path`` when the last byte is on the disk.

    Raises:
        OSError: If the disk is full, or for any other reason of the operating system. The message names the file. The
            scratch file is gone, and an earlier file at ``path`` is still there.
    """
    scratch = path.with_name(f".{path.name}.partial")
    try:
        with open(scratch, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror}") from error
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
