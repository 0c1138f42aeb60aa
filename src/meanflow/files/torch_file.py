"""Files written by ``torch.save``, opened without executing code."""

from __future__ import annotations

import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: str | Path, mmap: bool = False) -> Any:
    """Return what ``torch.save`` wrote, on the CPU.

    Beside tensors and plain containers, ``argparse.Namespace`` is admitted, in which the official training programs
    keep their arguments: a holder of attributes without behaviour. What it holds must be plain too.

    Args:
        path: The file.
        mmap: Whether tensors stay on disk until they are used: half of a training checkpoint never is.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no torch file, or holds anything else, which is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals([Namespace]):
            # Files of the format before torch 1.6 are no zip archives and cannot be mapped.
            mmap = mmap and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise ValueError(
                f"{path} is refused: it holds {found.group(1)} besides tensors and plain containers"
            ) from None
        reason = str(error).split("WeightsUnpickler error: ")[-1].strip().split("\n")[0]
        raise ValueError(f"{path} is truncated or is no checkpoint file: {reason or 'not a pickle'}") from None
    except Exception as error:  # a file of anything else makes the unpickler raise almost anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is truncated or is no checkpoint file: {reason}") from None
