"""Smaller copies of the golden cases that are checkpoints: the same layout, narrower layers.

These cases say what a reader must find, not what a network computes: the first rows and columns of a tensor will do.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from meanflow.files.torch_file import read_torch_file

DEPTH, DMF_DEPTH, DMF_HIDDEN, IMF_HIDDEN, NUM_CLASSES = 3, 2, 16, 8, 3


def reduce_dmf(source: Path, target: Path) -> None:
    """Write the reduced copy of a ``formats.dmf_checkpoints`` case."""
    spec = json.loads((source / "case.json").read_text())
    arch = spec["arch"]
    sizes = {n * arch["hidden_size"]: n * DMF_HIDDEN for n in (1, 2, 3, 4, 6)} | {
        arch["num_classes"] + 1: NUM_CLASSES + 1
    }

    def cut(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {key: value for key, value in weights.items() if _block(key) < DEPTH}
        return {key: torch.from_numpy(_cut(value.numpy(), sizes)) for key, value in kept.items()}

    (target / "data").mkdir(parents=True)
    for file in (source / "data").glob("*.pt"):
        content = read_torch_file(file)
        if "model" in content:
            states = list(content["opt"]["state"].items())[:2]
            content |= {key: cut(content[key]) for key in ("model", "ema")}
            content["opt"]["state"] = {
                i: {key: torch.from_numpy(_cut(value.numpy(), sizes)) for key, value in state.items()}
                for i, state in states
            }
            content["args"] = Namespace(**vars(content["args"]) | {"dmf_depth": DMF_DEPTH})
        else:
            content = cut(content)
        torch.save(content, target / "data" / file.name)
    save_file(cut(load_file(source / "tensors.safetensors")), target / "tensors.safetensors")
    arch |= {"hidden_size": DMF_HIDDEN, "depth": DEPTH, "dmf_depth": DMF_DEPTH, "num_classes": NUM_CLASSES}
    _write_spec(spec, target)


def reduce_imf_jax(source: Path, target: Path) -> None:
    """Write the reduced copy of a ``formats.imf_jax_checkpoint`` case; of the optimizer state only a count is kept."""
    spec = json.loads((source / "case.json").read_text())
    arch = spec["arch"]
    hidden, inner = arch["hidden_size"], int(arch["hidden_size"] * arch["mlp_ratio"])
    sizes = {
        hidden: IMF_HIDDEN,
        hidden // arch["num_heads"]: IMF_HIDDEN // arch["num_heads"],
        inner: int(IMF_HIDDEN * arch["mlp_ratio"]),
        arch["num_classes"] + 1: NUM_CLASSES + 1,
    }
    (target / "data" / "msgpack").mkdir(parents=True)
    (packed,) = (source / "data" / "msgpack").iterdir()
    state = msgpack.unpackb(packed.read_bytes(), raw=False, strict_map_key=False, ext_hook=_array)
    state = {key: _map(lambda a: _cut(a, sizes), state[key]) for key in ("params", "ema_params", "step")} | {
        "opt_state": {"0": {"count": state["opt_state"]["0"]["count"]}}
    }
    content = msgpack.packb(_map(_packed, state), strict_types=True)
    (target / "data" / "msgpack" / packed.name).write_bytes(content)

    (original,) = (source / "data" / "orbax").iterdir()
    folder = target / "data" / "orbax" / original.name
    folder.mkdir(parents=True)
    leaves = {".".join(path): np.asarray(leaf) for path, leaf in _leaves(state)}
    metadata = json.loads((original / "_METADATA").read_text())
    metadata["tree_metadata"] = {
        key: value
        for key, value in metadata["tree_metadata"].items()
        if ".".join(level["key"] for level in value["key_metadata"]) in leaves
    }
    (folder / "_METADATA").write_text(json.dumps(metadata))
    shutil.copy(original / "_CHECKPOINT_METADATA", folder)
    # As Orbax does: each process writes a database of its own, then the one at the top refers to them.
    context = ts.Context()
    process, whole = (
        ts.KvStore.open(
            {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/{subfolder}"}}, context=context
        ).result()
        for subfolder in ("ocdbt.process_0/", "")
    )
    transaction = ts.Transaction(atomic=True)
    for name, array in leaves.items():
        for key, value in _zarr(array).items():
            process.with_transaction(transaction).write(f"{name}/{key}", value)
    transaction.commit_sync()
    transaction = ts.Transaction(atomic=True)
    process.experimental_copy_range_to(whole.with_transaction(transaction)).result()
    transaction.commit_sync()
    with zipfile.ZipFile(target / "data" / "orbax.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))

    tensors = load_file(source / "tensors.safetensors")
    reduced = {key: torch.from_numpy(_cut(value.numpy(), sizes)) for key, value in tensors.items()}
    save_file(reduced, target / "tensors.safetensors")
    arch |= {"hidden_size": IMF_HIDDEN, "num_classes": NUM_CLASSES}
    _write_spec(spec, target)


REDUCE = {"formats.dmf_checkpoints": reduce_dmf, "formats.imf_jax_checkpoint": reduce_imf_jax}


def _write_spec(spec: dict[str, Any], target: Path) -> None:
    spec["reduced"] = "the first rows and columns of every tensor, in files written anew in the same layout"
    (target / "case.json").write_text(json.dumps(spec, indent=1) + "\n")


def _block(key: str) -> int:
    levels = key.split(".")
    return int(levels[levels.index("blocks") + 1]) if "blocks" in levels else -1


def _cut(array: np.ndarray, sizes: dict[int, int]) -> np.ndarray:
    return np.ascontiguousarray(array[tuple(slice(sizes.get(n, n)) for n in array.shape)]).reshape(
        [sizes.get(n, n) for n in array.shape]
    )


def _zarr(array: np.ndarray) -> dict[str, bytes]:
    """Return the files of a zarr array of one chunk."""
    schema = {"compressor": {"id": "zstd", "level": 1}, "shape": array.shape, "chunks": array.shape}
    store = {"driver": "zarr", "kvstore": {"driver": "memory"}, "metadata": schema | {"dtype": array.dtype.str}}
    context = ts.Context()
    ts.open(store, create=True, context=context).result().write(array).result()
    written = ts.KvStore.open({"driver": "memory"}, context=context).result()
    return {key.decode(): written.read(key).result().value for key in written.list().result()}


def _map(function: Any, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _map(function, value) for key, value in tree.items()}
    return function(tree) if isinstance(tree, np.ndarray) else tree


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, tree


def _array(code: int, data: bytes) -> np.ndarray:
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    return np.frombuffer(buffer, dtype=dtype).reshape(shape)


def _packed(array: np.ndarray) -> msgpack.ExtType:
    """Encode an array as flax does."""
    return msgpack.ExtType(1, msgpack.packb((list(array.shape), array.dtype.name, array.tobytes())))
