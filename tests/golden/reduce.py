"""Copy golden cases, with the label tables cut to the labels in use.

    python -m tests.golden.reduce SOURCE TARGET CASE...

A tiny network with 1000 classes is mostly its label table. A case sees a dozen labels: they are renumbered from 0, the
null label follows them, and of the table (and of its gradients and changes, which are zero elsewhere) only their rows
are kept. No number changes, and the copy is a case like any other: ``num_classes`` is what ``case.json`` says.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.golden.reduce_checkpoints import REDUCE

TABLE = "y_embedder.embedding_table.weight"
LABELS = re.compile(r"(step\d+\.)?y(_used)?")
ARCHITECTURES = ("arch", "teacher_arch", "sit_arch", "dmft_arch")


def reduce_case(source: Path, target: Path) -> None:
    """Write the reduced copy of a case."""
    spec = json.loads((source / "case.json").read_text())
    if spec["kind"] in REDUCE:
        REDUCE[spec["kind"]](source, target)
        return
    shutil.copytree(source, target)
    architectures = [spec[key] for key in ARCHITECTURES if spec.get(key)]
    if not architectures:
        return
    (null_label,) = {arch["num_classes"] for arch in architectures}
    tensors = load_file(source / "tensors.safetensors")
    names = [name for name, tensor in tensors.items() if LABELS.fullmatch(name) and not tensor.is_floating_point()]
    used = sorted({label for name in names for label in tensors[name].tolist()} - {null_label})
    rows = torch.tensor([*used, null_label])

    for name in names:
        tensors[name] = torch.searchsorted(rows, tensors[name])
    for name in [name for name in tensors if name.endswith(TABLE)]:
        tensors[name] = _cut(tensors[name], rows, name)
        spec["tensors"][name]["shape"] = list(tensors[name].shape)
    save_file(tensors, target / "tensors.safetensors")
    for file in source.glob("*weights.safetensors"):
        weights = load_file(file)
        weights[TABLE] = weights[TABLE][rows].contiguous()
        save_file(weights, target / file.name)
        spec["weight_files"][file.name][TABLE] = list(weights[TABLE].shape)
    for arch in architectures:
        arch["num_classes"] = len(used)
    spec["reduced"] = f"{null_label} classes renumbered to the {len(used)} in use; null label {len(used)}"
    (target / "case.json").write_text(json.dumps(spec, indent=1) + "\n")


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
