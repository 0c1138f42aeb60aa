"""Reading of files that ``torch.save`` wrote. No code in a file is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: str | Path, mmap: bool = False) -> Any:
    """Return the content of a file that ``torch.save`` wrote, on the CPU.

    The file may hold tensors, plain containers, and ``argparse.Namespace``, in which the official training programs
    keep their arguments. A namespace has attributes and no behavior; its attributes must be plain too.

    Args:
        path: The file.
        mmap: Whether tensors stay on disk until they are used. Half of a training checkpoint is never used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, is no torch file, or holds another object. The message names the object.
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
    except Exception as error:  # a file that is no pickle makes the unpickler raise almost any exception
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is truncated or is no checkpoint file: {reason}") from None
