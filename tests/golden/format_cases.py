"""Golden cases of kind ``formats.*``: files as the official programs write them, and what a reader must find in them.

Nothing is computed here, so every tensor must come out exactly, even if a case states a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import meanflow
from datamodules.preparation.official import DMFLatents, IMFLatents
from meanflow.checkpoints import load_weights
from meanflow.checkpoints.imf_jax import read_jax_checkpoint
from meanflow.checkpoints.imf_torch import official_names
from meanflow.files.torch_file import read_torch_file
from meanflow.metrics import read_reference

if TYPE_CHECKING:
    from tests.golden.cases import Case

Results = dict[str, Tensor]
# Name of the part, stored tensors that it must find, how.
Piece = tuple[str, list[str], Callable[[], Results]]

# Official names of constructor arguments that are not ours.
ARGUMENTS = {"use_logvar": "logvar"}


def exact_tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """Describe all stored tensors of a case as outputs that must be equal."""
    return {key: {"role": "output", "tolerance": {"exact": True}} for key in load_file(folder / "tensors.safetensors")}


def prefixed(prefix: str, weights: Results) -> Results:
    return {f"{prefix}.{key}": value for key, value in weights.items()}


def keys(case: Case, *prefixes: str) -> list[str]:
    return [key for key in case.results() if key.startswith(prefixes)]


def stated(case: Case) -> dict[str, Any]:
    """All arguments of the case; those that the file says too are thereby checked."""
    return {ARGUMENTS.get(key, key): value for key, value in case.spec["arch"].items()}


def dmf_checkpoints(case: Case) -> Iterator[Piece]:
    """A training checkpoint and a bare state dict, of the model or of its average: as weights, and as models."""

    def weights(file: Path) -> Results:
        return prefixed("model", load_weights(file, ema=False)) | prefixed("ema", load_weights(file))

    def models(file: Path) -> Results:
        raw, average = (meanflow.load(file, ema=ema, **stated(case)).network.state_dict() for ema in (False, True))
        return prefixed("model", raw) | prefixed("ema", average)

    for file in sorted((case.path / "data").glob("*.pt")):
        wanted = keys(case, "model.", "ema.")
        if "model" not in read_torch_file(file):
            probe = load_weights(file)["final_layer.linear.weight"]
            (which,) = (
                p for p in ("model.", "ema.") if torch.equal(probe, case.stored[f"{p}final_layer.linear.weight"])
            )
            wanted = keys(case, which)
        yield file.stem, wanted, partial(weights, file)
        yield f"{file.stem}-load", wanted, partial(models, file)


def imf_jax_checkpoint(case: Case) -> Iterator[Piece]:
    """The JAX training state in its three forms, under official PyTorch names: as weights, and as models."""
    (packed,) = (case.path / "data" / "msgpack").iterdir()

    def weights(path: Path) -> Results:
        raw, average = (read_jax_checkpoint(path, ema) for ema in (False, True))
        assert raw.step is not None
        return prefixed("raw", raw.weights) | prefixed("ema", average.weights) | {"step": torch.tensor([raw.step])}

    def models(path: Path) -> Results:
        raw, average = (meanflow.load(path, ema=ema, **stated(case)).network.state_dict() for ema in (False, True))
        return prefixed("raw", official_names(raw)) | prefixed("ema", official_names(average))

    for path in (case.path / "data" / "orbax", case.path / "data" / "orbax.zip", packed):
        name = "msgpack" if path == packed else path.name
        yield name, case.results(), partial(weights, path)
        yield f"{name}-load", keys(case, "raw.", "ema."), partial(models, path)


def fid_stats(case: Case) -> Iterator[Piece]:
    """Reference statistics; the .npz files hold those of Inception only."""
    names = {"inception": "fid", "dinov2": "fd_dinov2"}

    def moments(file: Path) -> Results:
        found = read_reference(file).pooled.items()
        return {f"{names[name]}.{key}": getattr(gaussian, key) for name, gaussian in found for key in ("mu", "sigma")}

    for name in case.spec["files"]:
        file = case.path / "data" / name
        yield name, case.results() if file.suffix == ".pkl" else keys(case, "fid."), partial(moments, file)


def dmf_vae_sd(case: Case) -> Iterator[Piece]:
    """The data set of the DMF code."""

    def samples() -> Results:
        latents = DMFLatents(case.path / "data")
        assert latents.files == case.spec["feature_files"]
        features, labels = zip(*(latents[i] for i in range(len(latents))), strict=True)
        images = [latents.image(i) for i in range(len(latents))]
        return {"features": torch.stack(features), "labels": torch.tensor(labels), "images": torch.stack(images)}

    yield "", case.results(), samples


def imf_pt(case: Case) -> Iterator[Piece]:
    """The data set of the iMF code."""

    def samples() -> Results:
        latents = IMFLatents(case.path / "data")
        assert latents.files == case.spec["files"]
        moments, labels = zip(*(latents[i] for i in range(len(latents))), strict=True)
        return {"image": torch.stack(moments), "label": torch.tensor(labels)}

    yield "", case.results(), samples


FORMATS: dict[str, Callable[[Case], Iterator[Piece]]] = {
    "formats.dmf_checkpoints": dmf_checkpoints,
    "formats.imf_jax_checkpoint": imf_jax_checkpoint,
    "formats.fid_stats": fid_stats,
    "formats.dmf_vae_sd": dmf_vae_sd,
    "formats.imf_pt": imf_pt,
}
