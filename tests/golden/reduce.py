"""Copy golden cases, with the label tables cut to the labels in use.

    python -m tests.golden.reduce SOURCE TARGET CASE...

A tiny network with 1000 classes is mostly its label table. A case sees a dozen labels: they are renumbered from 0, the
null label follows them, and of the table (and of its gradients and changes, which are zero elsewhere) only their rows
are kept. No number changes, and the copy is a case like any other: ``num_classes`` is what ``case.json`` says.

Gradients and changes of parameters are as large as the weights, several times over; those of large parameters are left
out, and so is how far the official code is from the truth in float32.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.golden.reduce_checkpoints import REDUCE

TABLE = "y_embedder.embedding_table.weight"
LABELS = re.compile(r"(step\d+\.)?y(_used)?")
# Tensors that a case has for every parameter, and the most entries of one that is kept.
PER_PARAMETER = ("grad.", "param_delta.", "ema_delta.")
MAX_ENTRIES = 1024
ARCHITECTURES = ("arch", "teacher_arch", "sit_arch", "dmft_arch")


def reduce_case(source: Path, target: Path) -> None:
    """Write the reduced copy of a case."""
    spec = json.loads((source / "case.json").read_text())
    if spec["kind"] in REDUCE:
        REDUCE[spec["kind"]](source, target)
        return
    shutil.copytree(source, target)
    tensors = load_file(source / "tensors.safetensors")
    _cut_labels(spec, tensors, source, target)
    large = [key for key, tensor in tensors.items() if key.startswith(PER_PARAMETER) and tensor.numel() > MAX_ENTRIES]
    if large:
        spec["left_out"] = f"{len(large)} gradients or changes of parameters of more than {MAX_ENTRIES} entries"
    for key in large:
        del tensors[key], spec["tensors"][key]
    for tensor in spec["tensors"].values():
        for key in ("official_float32_max_abs_err", "official_float32_max_rel_err"):
            tensor.get("tolerance", {}).pop(key, None)
    save_file(tensors, target / "tensors.safetensors")
    (target / "case.json").write_text(json.dumps(spec, separators=(",", ":")).replace('},"', '},\n"') + "\n")


def _cut_labels(spec: dict[str, Any], tensors: dict[str, Tensor], source: Path, target: Path) -> None:
    """Cut the label tables, in place and in the weight files of ``target``; improved MeanFlow has ten classes only."""
    architectures = [spec[key] for key in ARCHITECTURES if spec.get(key)]
    if not architectures or spec["kind"].startswith("imf."):
        return
    (null_label,) = {arch["num_classes"] for arch in architectures}
    names = [name for name, tensor in tensors.items() if LABELS.fullmatch(name) and not tensor.is_floating_point()]
    used = sorted({label for name in names for label in tensors[name].tolist()} - {null_label})
    rows = torch.tensor([*used, null_label])

    for name in names:
        tensors[name] = torch.searchsorted(rows, tensors[name])
    for name in [name for name in tensors if name.endswith(TABLE)]:
        tensors[name] = _cut(tensors[name], rows, name)
        spec["tensors"][name]["shape"] = list(tensors[name].shape)
    for file in source.glob("*weights.safetensors"):
        weights = load_file(file)
        weights[TABLE] = weights[TABLE][rows].contiguous()
        save_file(weights, target / file.name)
        spec["weight_files"][file.name][TABLE] = list(weights[TABLE].shape)
    for arch in architectures:
        arch["num_classes"] = len(used)
    spec["reduced"] = f"{null_label} classes renumbered to the {len(used)} in use; null label {len(used)}"


def _cut(table: Tensor, rows: Tensor, name: str) -> Tensor:
    rest = table.clone()
    rest[rows] = 0
    if rest.any():
        raise ValueError(f"{name} has entries in rows of labels that no sample has")
    return table[rows].contiguous()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Copy golden cases, with the label tables cut to the labels in use.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("cases", nargs="+")
    arguments = parser.parse_args()
    for case in arguments.cases:
        reduce_case(arguments.source / case, arguments.target / case)
