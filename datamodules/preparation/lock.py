"""File locks that keep two runs from writing into one workspace."""

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
    """Hold a lock that one process at a time can hold; wait for it first.

    Args:
        path: File of the lock.
    """
    with open(path, "wb") as file:
        _lock(file, path, wait=True)
        yield


@contextmanager
def run_lock(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the lock of this rank's work, which also keeps runs of another number of ranks out.

    The operating system frees the lock when the process ends, in whatever way it ends. Child processes do not inherit
    the lock.

    Args:
        folder: Workspace that all ranks share.
        ranks: This process.

    Raises:
        FileExistsError: If another process does this rank's work, or a run of another number of ranks is at work.
        OSError: If the file system has no locks.
    """
    own = folder / f"rank-{ranks.rank}-of-{ranks.world_size}.lock"
    with open(own, "wb") as file:
        with exclusive(folder / "gate.lock"):
            for path in sorted(folder.glob("rank-*-of-*.lock")):
                found = re.fullmatch(r"rank-\d+-of-(\d+)\.lock", path.name)
                if found and int(found[1]) != ranks.world_size:
                    with open(path, "ab") as other:
                        _lock(other, path)
            _lock(file, own)
        yield


@contextmanager
def suppress_if_published(out: Path) -> Iterator[None]:
    """Suppress ``FileNotFoundError`` if ``out`` exists: another rank finished it and removed the workspace."""
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
