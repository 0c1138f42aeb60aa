"""Exported models: a folder with ``model.safetensors`` and ``config.yaml``."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from meanflow.checkpoints.description import Description
from meanflow.checkpoints.older_versions import present_config
from meanflow.models.loading import load_strictly
from meanflow.pipeline import Pipeline

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"


def save_folder(pipeline: Pipeline, path: str | Path) -> Path:
    """Write a pipeline to a new folder, which appears complete or not at all.

    Raises:
        FileExistsError: If there is something at ``path`` already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; it is not overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        weights = {key: value.contiguous().cpu() for key, value in pipeline.network.state_dict().items()}
        save_file(weights, scratch / WEIGHTS)
        (scratch / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner can read
        (scratch / CONFIG).write_text(yaml.safe_dump(pipeline.config, sort_keys=False))
        scratch.chmod(0o755)
        os.replace(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return path


def load_folder(path: str | Path, **stated: Any) -> Pipeline:
    """Open an exported folder.

    Args:
        path: The folder.
        stated: As in ``meanflow.load``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the weights do not fit the configured network, or a stated setting contradicts
            the configuration.
    """
    path = Path(path)
    for name in (WEIGHTS, CONFIG):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} is no exported model: it has no {name}")
    try:
        config = yaml.safe_load((path / CONFIG).read_text())
        weights = load_file(path / WEIGHTS)
    except (yaml.YAMLError, SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path / CONFIG} must hold a mapping, got {type(config).__name__}")
    config = present_config(config)
    if stated:
        config = Description.of_config(config).settle(stated, str(path))
    pipeline = Pipeline.from_config(config)
    load_strictly(pipeline.network, weights, str(path / WEIGHTS))
    pipeline.network.eval()
    return pipeline
