"""Checkpoints of a training run (``last.ckpt``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from meanflow.checkpoints.description import Description
from meanflow.checkpoints.older_versions import present_config
from meanflow.files.torch_file import read_torch_file
from meanflow.models.loading import load_strictly
from meanflow.pipeline import Pipeline

NETWORK_PREFIX = "network."


def is_training_checkpoint(content: Any) -> bool:
    """Return whether the content of a torch file is a checkpoint of a training run of this project."""
    return isinstance(content, dict) and "pipeline" in content and "state_dict" in content


def can_be_resumed(content: Any) -> bool:
    """Return whether a file is a checkpoint of this project that training can resume: of a network or of a codec."""
    return isinstance(content, dict) and "state_dict" in content and bool({"pipeline", "autoencoder"} & content.keys())


def network_weights(content: dict[str, Any], ema: bool = True) -> dict[str, Tensor]:
    """Return the network's averaged weights, or the trained weights, with which training resumes."""
    # The EMA callback stores the average as "state_dict" and the trained weights as "current_model_state".
    state_dict = content["state_dict"] if ema else content.get("current_model_state", content["state_dict"])
    return {
        key.removeprefix(NETWORK_PREFIX): value for key, value in state_dict.items() if key.startswith(NETWORK_PREFIX)
    }


def load_lightning(path: str | Path, ema: bool = True, **stated: Any) -> Pipeline:
    """Open the checkpoint of a training run.

    Args:
        path: The ``.ckpt`` file.
        ema: Whether to take the averaged weights, if the run averaged.
        stated: As in ``meanflow.load``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or is no checkpoint of a training run, or a stated setting contradicts it.
    """
    content = read_torch_file(path)
    if not is_training_checkpoint(content):
        raise ValueError(f"{path} is no checkpoint of a training run of this project")
    return pipeline_of(content, ema, stated, str(path))


def pipeline_of(content: dict[str, Any], ema: bool, stated: dict[str, Any], source: str) -> Pipeline:
    """Build the pipeline of a checkpoint.

    Args:
        content: Content of the checkpoint.
        ema: Whether to take the averaged weights, if the run averaged.
        stated: As in ``meanflow.load``.
        source: Name of the file, for messages.
    """
    config = present_config(content["pipeline"])
    if stated:
        config = Description.of_config(config).settle(stated, source)
    pipeline = Pipeline.from_config(config)
    load_strictly(pipeline.network, network_weights(content, ema), source)
    pipeline.network.eval()
    return pipeline
