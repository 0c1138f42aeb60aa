"""How the command-line programs report what the user can mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Bad values, missing or damaged files and full disks, and a loss that is no longer a number.
EXPECTED = (ValueError, OSError, ArithmeticError)


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
        if cause is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = " ".join(str(cause).split()) or type(cause).__name__
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
