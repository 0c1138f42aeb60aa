"""Checkpoints of the official JAX code of improved MeanFlow, read without JAX.

A checkpoint is a flax train state ``{step, params, ema_params, opt_state}``. It has one of three forms:

- an Orbax folder: an OCDBT database of zarr arrays, which the package tensorstore reads;
- a zip file of such a folder, as in the official releases;
- a single file of older flax versions, which the package msgpack reads.

The extra ``jax-checkpoints`` installs both packages. They are imported when a checkpoint is read.
"""

from __future__ import annotations

import importlib
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

MANIFEST = "manifest.ocdbt"
AVERAGED, TRAINED = "ema_params", "params"
# First bytes of a msgpack map that is not empty. 0x80 is the first byte of an empty map and of a pickle.
MSGPACK_MAPS = (*range(0x81, 0x90), 0xDE, 0xDF)

# The key of an array's description in the database ends in one of these. The values are tensorstore's format names.
ZARR = {"/.zarray": "zarr", "/zarr.json": "zarr3"}


class JaxState(NamedTuple):
    """One tree of weights of a JAX checkpoint.

    Attributes:
        weights: State dict under the names and in the layouts of the official PyTorch branch.
        step: Number of training steps; ``None`` if the checkpoint does not record it.
    """

    weights: dict[str, Tensor]
    step: int | None


def is_jax_checkpoint(path: Path) -> bool:
    """Return whether ``path`` is an Orbax folder, a zip file of such a folder, or a msgpack file."""
    if path.is_dir():
        return bool(_orbax_folders(path))
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):  # torch files are zip files too
        with zipfile.ZipFile(path) as archive:
            return not any(Path(name).name == "data.pkl" for name in archive.namelist())
    with open(path, "rb") as file:
        first = file.read(1)
    return bool(first) and first[0] in MSGPACK_MAPS


def read_jax_checkpoint(path: str | Path, ema: bool = True) -> JaxState:
    """Read the weights of a JAX checkpoint.

    Args:
        path: Folder of the checkpoint, or a folder that contains it; a zip file of such a folder; or a msgpack file.
        ema: Whether to take the averaged weights, if the checkpoint has them.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ImportError: If a package of the extra ``jax-checkpoints`` is needed and not installed.
        OSError: If the zip file cannot be unpacked.
        ValueError: If the checkpoint is damaged or lacks these weights, or ``path`` holds several checkpoints.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.is_dir():
        return _read_folder(path, ema, str(path))
    if not zipfile.is_zipfile(path):
        return _read_msgpack(path, ema, str(path))
    with tempfile.TemporaryDirectory(prefix="meanflow-") as scratch:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(scratch)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        except OSError as error:
            raise OSError(f"{path} could not be unpacked into {scratch} (TMPDIR chooses the place): {error}") from None
        return _read_folder(Path(scratch), ema, str(path))


def _orbax_folders(path: Path) -> list[Path]:
    folders = [path, *(p for p in sorted(path.glob("*")) if p.is_dir()), *(p for p in path.glob("*/*") if p.is_dir())]
    found = [p for p in folders if (p / MANIFEST).is_file() and not p.name.startswith("ocdbt.process_")]
    return [p for p in found if not any(other in p.parents for other in found)]


def _read_folder(path: Path, ema: bool, source: str) -> JaxState:
    folders = _orbax_folders(path)
    if len(folders) > 1:
        names = [folder.name for folder in folders]
        raise ValueError(f"{source} holds several checkpoints, {names}: name one of them")
    if folders:
        return _read_orbax(folders[0], ema, source)
    files = [file for file in path.rglob("*") if file.is_file()]
    if len(files) == 1:
        return _read_msgpack(files[0], ema, source)
    raise ValueError(f"{source} holds no checkpoint: there is neither {MANIFEST} nor a single msgpack file in it")


def _read_orbax(folder: Path, ema: bool, source: str) -> JaxState:
    ts = _require("tensorstore", source)
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}
    with _one_line(source):
        keys = [key.decode() for key in ts.KvStore.open(database).result().list().result()]
    drivers = {key.removesuffix(end): driver for end, driver in ZARR.items() for key in keys if key.endswith(end)}
    tree = _chosen({name.split(".")[0] for name in drivers}, ema, source)
    wanted = [name for name in drivers if name == "step" or name.startswith(f"{tree}.")]
    with _one_line(source):
        specs = ({"driver": drivers[name], "kvstore": {**database, "path": f"{name}/"}} for name in wanted)
        reads = [store.result().read() for store in [ts.open(spec, open=True, read=True) for spec in specs]]
        arrays = {name: np.asarray(read.result()) for name, read in zip(wanted, reads, strict=True)}
    step = arrays.pop("step", None)
    leaves = ((name.split(".")[1:], array) for name, array in arrays.items())
    return JaxState(_torch_weights(leaves, source), None if step is None else int(step))


def _read_msgpack(path: Path, ema: bool, source: str) -> JaxState:
    msgpack = _require("msgpack", source)

    def extension(code: int, data: bytes) -> np.ndarray | Tensor:
        if code not in (1, 3):  # array, scalar of numpy
            raise ValueError(f"extension type {code}")
        shape, dtype, buffer = msgpack.unpackb(data, raw=False)
        # NumPy has no bfloat16. uint16 has the same width.
        array = np.frombuffer(buffer, dtype="uint16" if dtype == "bfloat16" else dtype).reshape(shape)
        return torch.from_numpy(array.copy()).view(torch.bfloat16) if dtype == "bfloat16" else array

    with _one_line(source):
        state = msgpack.unpackb(path.read_bytes(), raw=False, strict_map_key=False, ext_hook=extension)
    if not isinstance(state, dict):
        raise ValueError(f"{source} is no checkpoint file: it holds {type(state).__name__}")
    step = state.get("step")
    tree = state.get(_chosen(set(map(str, state)), ema, source))
    return JaxState(_torch_weights(_leaves(tree), source), None if step is None else int(step))


def _chosen(trees: set[str], ema: bool, source: str) -> str:
    tree = AVERAGED if ema and AVERAGED in trees else TRAINED
    if tree not in trees:
        raise ValueError(f"{source} holds no weights under {tree!r}, only {sorted(trees)}")
    return tree


def _leaves(tree: object, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], object]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, tree


def _torch_weights(leaves: Iterable[tuple[Iterable[str], object]], source: str) -> dict[str, Tensor]:
    """Return the arrays under the names and in the layouts of the PyTorch branch, as its ``convert.py`` maps them."""
    weights = {}
    for path, leaf in leaves:
        *parents, name = path
        tensor = leaf if isinstance(leaf, Tensor) else _tensor(leaf)
        if tensor is None:
            raise ValueError(f"{source} is of another architecture: {'.'.join(path)} holds {type(leaf).__name__}")
        if name == "kernel" and tensor.ndim == 2:
            tensor = tensor.T.contiguous()
        elif name == "kernel" and tensor.ndim == 4:  # height, width, in, out
            tensor = tensor.permute(3, 2, 0, 1).contiguous()
        name = {"kernel": "weight", "embedding": "weight", "scale": "weight"}.get(name, name)
        levels = [re.sub(r"_(\d+)$", r".\1", re.sub(r"^layers_(\d+)$", r"\1", level)) for level in parents]
        weights[".".join([*levels, name])] = tensor
    return weights


def _tensor(array: object) -> Tensor | None:
    if not isinstance(array, np.ndarray):
        return None
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in "fiub":
        return None
    return torch.from_numpy(np.array(array))


def _require(package: str, source: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(
            f"{source} is a JAX checkpoint, which needs the package {package}: pip install 'meanflow[jax-checkpoints]'"
        ) from None


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Turn errors of tensorstore and msgpack, which have several types and many lines, into a one-line ValueError."""
    try:
        yield
    except (RuntimeError, OSError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{source} is truncated or is no checkpoint file: {reason}") from None
