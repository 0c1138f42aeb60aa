"""Files written by ``torch.save``, opened without executing code."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: str | Path) -> Any:
    """Return what ``torch.save`` wrote, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no torch file, or holds anything but tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        # Mapped, not read: whoever wants the weights alone never touches the optimizer's part of a checkpoint.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = found.group(1) if found else "something else"
        raise ValueError(f"{path} is refused: it holds {what} besides tensors and plain containers") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} is truncated or is no checkpoint file: {reason}") from None
