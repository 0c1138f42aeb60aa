"""Keeps two runs from writing into one folder."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from meanflow.distributed import Ranks


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process is here; held for moments only."""
    with open(path, "wb") as file:
        _lock(file, path, wait=True)
        yield


@contextmanager
def run_lock(folder: Path, rank: Ranks) -> Iterator[None]:
    """Refuse to go on if another process does this rank's work, or one of another number of ranks is at work.

    The operating system frees the lock when the process ends, however it ends; child processes do not inherit it.

    Args:
        folder: Folder that all ranks share.
        rank: This process.

    Raises:
        FileExistsError: If another run is at work.
        OSError: If the file system has no locks.
    """
    own = folder / f"rank-{rank.rank}-of-{rank.world_size}.lock"
    with open(own, "wb") as file:
        with exclusive(folder / "gate.lock"):
            for path in sorted(folder.glob("rank-*-of-*.lock")):
                found = re.fullmatch(r"rank-\d+-of-(\d+)\.lock", path.name)
                if found and int(found[1]) != rank.world_size:
                    with open(path, "ab") as other:
                        _lock(other, path)
            _lock(file, own)
        yield


@contextmanager
def suppress_if_published(out: Path) -> Iterator[None]:
    """Suppress that a file of the workspace is gone if ``out`` is there: another rank made it and tidied up."""
    try:
        yield
    except FileNotFoundError:
        if not out.exists():
            raise


def _lock(file: BinaryIO, path: Path, wait: bool = False) -> None:
    try:
        # Not flock: child processes would inherit it, and workers that outlive a killed run would hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        raise FileExistsError(
            f"{path.parent}: another run is at work here ({path.stem}); wait for it or write elsewhere"
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be locked: {error.strerror}") from error
