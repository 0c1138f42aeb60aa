"""One entry for every kind of checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from meanflow.checkpoints.folder import load_folder
from meanflow.checkpoints.lightning import is_training_checkpoint, load_lightning, network_weights
from meanflow.checkpoints.torch_file import read_torch_file
from meanflow.pipeline import Pipeline


def load(path: str | Path, ema: bool = True) -> Pipeline:
    """Open a trained model.

    Args:
        path: A checkpoint of a training run (``.ckpt``), or an exported folder.
        ema: Whether to take the averaged weights of a training run.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If what is there cannot be read as a model.
    """
    path = Path(path)
    if path.is_dir():
        return load_folder(path)
    return load_lightning(path, ema)


def load_network(path: str | Path, ema: bool = True) -> nn.Module:
    """Open a trained model and return its network alone, frozen and in evaluation mode (a teacher)."""
    return load(path, ema).network.eval().requires_grad_(False)


def load_weights(path: str | Path, ema: bool = True) -> dict[str, Tensor]:
    """Return the network weights of a checkpoint, under their official names.

    Args:
        path: A checkpoint of a training run, an exported folder, or an official file (a bare state dict, or a dict with
            ``ema`` and ``model``).
        ema: Whether to take the averaged weights.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If it holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        return load_folder(path).network.state_dict()
    content = read_torch_file(path)
    if is_training_checkpoint(content):
        return network_weights(content, ema)
    weights: Any = content.get("ema" if ema else "model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} holds no network weights")
    return weights
