"""Opening of trained models in any of the known formats."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from meanflow.checkpoints import dmf, imf_torch, lightning
from meanflow.checkpoints.description import Released
from meanflow.checkpoints.folder import load_folder
from meanflow.checkpoints.hub import local_path
from meanflow.checkpoints.imf_jax import is_jax_checkpoint, read_jax_checkpoint
from meanflow.checkpoints.weights import is_state_dict
from meanflow.files.torch_file import read_torch_file
from meanflow.models.loading import load_strictly
from meanflow.pipeline import Pipeline


def load(path: str | Path, ema: bool = True, **stated: Any) -> Pipeline:
    """Open a trained model.

    Args:
        path: A checkpoint of a training run (``.ckpt``), an exported folder, an official file (SiT and DMF ``.pt``, iMF
            ``.pth``, the iMF JAX release as folder, zip or msgpack file), or ``hf://org/repo[/file]``.
        ema: Whether to take the averaged weights, if the file holds averaged and trained weights.
        stated: Settings that an official file does not hold: arguments of the network (``num_heads=16``,
            ``dmf_depth=20``, ``input_size=64``), ``network`` (name of the class), ``codec``, ``normalization`` and
            ``sampler``. ``meanflow.checkpoints.dmf`` and ``imf_torch`` list the defaults. If the file holds a stated
            setting, the two values must agree.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ImportError: If a package of the extra ``jax-checkpoints`` is needed and not installed.
        ValueError: If the file cannot be read as a model, or a stated setting contradicts it.
    """
    source, path = str(path), local_path(path)
    if path.is_dir() and not is_jax_checkpoint(path):
        return load_folder(path, **stated)
    content = _content(path, ema)
    if lightning.is_training_checkpoint(content):
        return lightning.pipeline_of(content, ema, stated, source)
    released = _released(content, ema, stated, source)
    pipeline = Pipeline.from_config(released.description.settle(stated, source))
    load_strictly(pipeline.network, released.weights, source)
    pipeline.network.eval()
    return pipeline


def load_network(path: str | Path, ema: bool = True, **stated: Any) -> nn.Module:
    """Open a trained model and return its network alone, frozen and in evaluation mode (a teacher)."""
    return load(path, ema, **stated).network.eval().requires_grad_(False)


def load_weights(path: str | Path, ema: bool = True) -> dict[str, Tensor]:
    """Return the network weights of a checkpoint, under the names of this project's networks.

    Args:
        path: A model that ``load`` opens.
        ema: Whether to take the averaged weights, if the file holds averaged and trained weights.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ImportError: If a package of the extra ``jax-checkpoints`` is needed and not installed.
        ValueError: If the file holds no weights of a known network.
    """
    source, path = str(path), local_path(path)
    if path.is_dir() and not is_jax_checkpoint(path):
        return load_folder(path).network.state_dict()
    content = _content(path, ema)
    if lightning.is_training_checkpoint(content):
        return lightning.network_weights(content, ema)
    return _released(content, ema, {}, source).weights


def _content(path: Path, ema: bool) -> Any:
    """Return the content of a torch file, or the weights of a JAX checkpoint."""
    return read_jax_checkpoint(path, ema).weights if is_jax_checkpoint(path) else read_torch_file(path, mmap=True)


def _released(content: Any, ema: bool, stated: Mapping[str, Any], source: str) -> Released:
    arguments = Namespace()
    if dmf.is_training_checkpoint(content):
        content, arguments = dmf.unpack(content, ema, source)
    if not is_state_dict(content):
        raise ValueError(f"{source} holds no network weights")
    if imf_torch.matches(content):
        return imf_torch.describe(content, source)
    if dmf.matches(content):
        return dmf.describe(content, arguments, stated, source)
    raise ValueError(f"{source} holds the weights of no known network (SiT, DMF, iMF): {sorted(content)[:4]}, ...")
