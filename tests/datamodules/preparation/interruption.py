"""Killed runs, and runs that stop because another process holds the lock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOLD = """
import fcntl, sys
with open(sys.argv[1], "wb") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


class KilledError(BaseException):
    """Stands for a signal that kills the process: no code handles it."""


def kill_at_rename(monkeypatch: pytest.MonkeyPatch, number: int, renamed: bool, run: Callable[[], object]) -> None:
    """Kill a run at a renaming of a finished file, which is the only moment at which the state of a run changes.

    Args:
        monkeypatch: Pytest's fixture.
        number: Number of the renaming, from 0.
        renamed: Whether the run dies just after the renaming; otherwise it dies just before.
        run: The run.
    """
    replace, calls = os.replace, []

    def die(first: Path, second: Path) -> None:
        calls.append(second)
        if len(calls) == number + 1:
            if renamed:
                replace(first, second)
            raise KilledError
        replace(first, second)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KilledError):
            run()


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Let another process hold the lock of a file; kill the process at the end."""
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        yield
        other.kill()
