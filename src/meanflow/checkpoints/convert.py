"""Conversion of a model into another format: the folder of this project, or a file under official names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meanflow.checkpoints.folder import save_folder
from meanflow.checkpoints.imf_torch import official_names
from meanflow.checkpoints.load import load
from meanflow.models import IMFTransformer
from meanflow.models.backbone import DiffusionTransformer
from meanflow.pipeline import Pipeline

ENDINGS = {".pt": "dmf", ".pth": "imf-torch"}


def convert(
    source: str | Path, target: str | Path, to: str | None = None, ema: bool = True, v_heads: bool = True, **stated: Any
) -> Pipeline:
    """Open a model and write it in another format. Weights keep their values. ``target`` appears when it is complete.

    Args:
        source: A model that ``meanflow.load`` opens.
        target: File or folder to write.
        to: ``folder`` (exported model of this project), ``dmf`` (bare state dict of a SiT or DMF network, ``.pt``) or
            ``imf-torch`` (iMF under the names of its PyTorch branch, ``.pth``). ``None`` decides by the ending of
            ``target``.
        ema: Whether to take the averaged weights, if the source holds averaged and trained weights.
        v_heads: Whether to write the blocks of iMF's v head. Released files for evaluation lack them.
        stated: As in ``meanflow.load``.

    Returns:
        The model that was read.

    Raises:
        FileExistsError: If ``target`` exists.
        ValueError: If ``to`` is unknown or does not fit the network.
    """
    target = Path(target)
    to = to or ENDINGS.get(target.suffix, "folder")
    if to not in WRITERS:
        raise ValueError(f"to must be one of {sorted(WRITERS)}, got {to!r}")
    if not v_heads and to != "imf-torch":
        raise ValueError(f"v heads can be left out of imf-torch only, not of {to}")
    if target.exists():
        raise FileExistsError(f"{target} exists already; it is not overwritten")
    pipeline = load(source, ema, **stated)
    WRITERS[to](pipeline, target, v_heads)
    return pipeline


def _write_folder(pipeline: Pipeline, target: Path, v_heads: bool) -> None:
    save_folder(pipeline, target)


def _write_dmf(pipeline: Pipeline, target: Path, v_heads: bool) -> None:
    if not isinstance(pipeline.network, DiffusionTransformer):
        raise ValueError(f"dmf is the format of SiT and DMF networks, not of {type(pipeline.network).__name__}")
    _save(pipeline.network.state_dict(), target)


def _write_imf_torch(pipeline: Pipeline, target: Path, v_heads: bool) -> None:
    if not isinstance(pipeline.network, IMFTransformer):
        raise ValueError(f"imf-torch is the format of iMF networks, not of {type(pipeline.network).__name__}")
    weights = pipeline.network.state_dict()
    _save(official_names({k: v for k, v in weights.items() if v_heads or not k.startswith("v_heads.")}), target)


WRITERS: dict[str, Callable[[Pipeline, Path, bool], None]] = {
    "folder": _write_folder,
    "dmf": _write_dmf,
    "imf-torch": _write_imf_torch,
}


def _save(weights: dict[str, Tensor], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save({key: value.contiguous().cpu() for key, value in weights.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        os.link(name, target)  # a rename would replace a file that another process has written in the meantime
    finally:
        os.unlink(name)
