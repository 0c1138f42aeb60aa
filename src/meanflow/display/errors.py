"""How the command-line programs report errors that the user can mend."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Bad values, missing or damaged files and full disks, a loss that is no longer a number, a missing optional package.
EXPECTED = (ValueError, OSError, ArithmeticError, ImportError)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line and exit status 1 on an expected error; ``HYDRA_FULL_ERROR=1`` shows where.

    An exception that another one was raised from, as Hydra does for constructors, counts as its cause.
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
    if "Original Traceback" in str(error):  # raised in a data worker, whose traceback is part of the message
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(" ".join(lines).split())
