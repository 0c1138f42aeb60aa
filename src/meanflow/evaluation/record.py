"""The record of a score: all settings and versions that another person needs to repeat the score."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.run import Evaluation
from meanflow.evaluation.scorer import Scorer
from meanflow.files.atomic import atomic_file
from meanflow.files.remote import sha256_of

PACKAGES = ("meanflow", "torch", "timm", "torch-fidelity", "torchmetrics", "diffusers", "numpy", "pillow")


def evaluation_record(
    evaluation: Evaluation, protocol: Protocol, scorer: Scorer, device: torch.device, **about: object
) -> dict[str, object]:
    """Return the record as plain values: the metrics of the best row, then all settings that the metrics depend on.

    Args:
        evaluation: The scores.
        protocol: Protocol of the scores.
        scorer: Scorer that computed the scores.
        device: Device of the evaluation.
        about: Further values, such as checkpoint, seed and number of processes.
    """
    given = evaluation.best.sampler is None
    return {
        "metrics": evaluation.best.metrics,
        "headline": evaluation.headline,
        "num_images": evaluation.num_images,
        # The labels and the rounding of given images are unknown.
        "protocol": protocol.config | ({"labels": None, "rounding": None} if given else {}),
        "reference": dict(scorer.reference_origin),
        "features": {name: {"weights_sha256": each.weights_sha256()} for name, each in scorer.extractors.items()},
        **about,
        "rows": [asdict(row) for row in evaluation.rows],
        "best": asdict(evaluation.best),
        "real_split": evaluation.real_split,
        "hardware": {"device": device_name(device), "processor": processor_name(), "num_cores": os.cpu_count()},
        "versions": versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write_record(record: Mapping[str, object], path: str | Path) -> None:
    """Write a record as JSON. The file appears when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(record, indent=2, allow_nan=False) + "\n").encode())


def checkpoint_sha256(path: Path) -> str:
    """Return the sha256 of a checkpoint file, or of the names and contents of all files in a checkpoint folder."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(part for part in path.rglob("*") if part.is_file()):
        digest.update(file.relative_to(path).as_posix().encode())
        digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def processor_name() -> str:
    """Return the model of the processor, or the architecture if the system does not name the model."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a score."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
