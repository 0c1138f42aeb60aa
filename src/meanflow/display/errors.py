"""Error messages and warnings of the command-line programs, one line each."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Errors that a user can repair: a bad value, a missing or damaged file, a full disk, a loss that became NaN, a missing
# optional package.
EXPECTED = (ValueError, OSError, ArithmeticError, ImportError)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with a message of one line and exit status 1 after an error that a user can repair.

    Hydra raises its own exception from the exception of a constructor. The message is then the message of the
    constructor's exception. ``HYDRA_FULL_ERROR=1`` shows the traceback instead.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, EXPECTED):
            cause = cause.__cause__
        if cause is None and type(error).__name__ == "InstantiationException":
            cause = error  # Hydra's message for a key that a constructor does not take
        if cause is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"error: {_message(cause)}", file=sys.stderr)
        sys.exit(1)


def one_line_warnings() -> None:
    """Print warnings from now on as one line, without the line of code that they come from."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"


def _message(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "Original Traceback" in str(error):  # an error of a data worker: its message contains the traceback
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(" ".join(lines).split())
