"""Train a network: ``python train.py experiment=NAME`` (``--help`` lists the groups)."""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

# Before torch is imported: OpenMP threads that wait spin for a moment only and then sleep. With the default, training
# on a shared CPU is over ten times slower as soon as anything else runs.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train as the configuration says."""
    from meanflow.display.errors import one_line_errors

    with one_line_errors():
        train(config)


def train(config: DictConfig) -> None:
    """Build the parts, then start the run, or go on with it."""
    # Imported here, so that --help and --cfg answer at once.
    import torch
    from hydra.utils import instantiate
    from lightning.pytorch.utilities import rank_zero_only

    from callbacks import AtomicCheckpointIO
    from meanflow import random_streams
    from meanflow.checkpoints import load_weights
    from meanflow.checkpoints.lightning import can_be_resumed
    from meanflow.files.atomic import atomic_file
    from meanflow.files.torch_file import read_torch_file
    from meanflow.models import load_flow_weights

    say = rank_zero_only(print)
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"a value must be given for {', '.join(sorted(missing))}")
    if not isinstance(config.seed, int):
        raise ValueError(f"seed must be a whole number, got {config.seed!r}")
    output_dir = Path(config.output_dir)
    checkpoint = checkpoint_to_resume(config.resume, output_dir)
    if checkpoint is not None:
        require_same_run(config, output_dir / "config.yaml")
        content = read_torch_file(checkpoint, mmap=True)
        if not can_be_resumed(content):
            raise ValueError(
                f"{checkpoint} is no checkpoint of a training run of this project; see init_from for weights"
            )
        step = content["global_step"]
        if 0 <= config.trainer.max_steps <= step:
            say(
                f"{output_dir} has finished: {step} of {config.trainer.max_steps} steps. "
                "resume=null starts anew, name=... starts another run, trainer.max_steps=... goes on"
            )
            return
        say(f"resuming from {checkpoint} at step {step}")

    quiet_lightning()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(random_streams.generator(config.seed, purpose=random_streams.INITIALISATION).initial_seed())
    datamodule = instantiate(config.datamodule)
    module = instantiate(config.module)
    module.require_data(datamodule)
    if checkpoint is None and config.init_from is not None:
        conversion = load_flow_weights(module.network, load_weights(config.init_from))
        say(f"weights from {config.init_from}; new: {conversion.new}; left behind: {conversion.dropped}")

    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback is not None]
    loggers = [instantiate(logger) for logger in config.logger.values() if logger is not None]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, plugins=[AtomicCheckpointIO()])
    if trainer.is_global_zero:
        with atomic_file(output_dir / "config.yaml") as file:
            file.write(OmegaConf.to_yaml(config, resolve=True).encode())
    start = time.perf_counter()
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    say(f"done: {output_dir}, step {trainer.global_step}, {time.perf_counter() - start:.0f} s in this session")


def require_same_run(config: DictConfig, saved: Path) -> None:
    """Check that a run to go on with was started with the same method.

    Raises:
        ValueError: If a value that the checkpoint or its draws depend on differs; all of them are listed.
    """
    from meanflow.modules.base import RUNTIME_SETTINGS

    if not saved.is_file():
        return
    old, new = OmegaConf.load(saved), OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    differences = []
    for group in ("seed", "network", "objective", "optimizer", "schedule"):
        before, now = (flat(OmegaConf.to_container(OmegaConf.create({group: c[group]}))) for c in (old, new))
        for key in sorted(before.keys() | now.keys()):
            if key.split(".")[-1] not in RUNTIME_SETTINGS and before.get(key) != now.get(key):
                differences.append(f"{key} is {before.get(key)!r} there and {now.get(key)!r} here")
    if differences:
        raise ValueError(
            f"{saved.parent} is a run with other settings: {'; '.join(differences)}. It goes on with its own; "
            "resume=null starts anew, name=... starts another run"
        )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted key."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, branch in tree.items()
        for key, value in flat(branch, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def quiet_lightning() -> None:
    """Silence what Lightning says that does not concern the user here; real warnings still show."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # a store that fits into memory needs none
        ".*smaller than the logging interval.*",  # steps are counted over the whole run, not per epoch
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 with torch 2.14
        ".*FSDP2-wrapped module .* returned a view tensor.*",  # no objective changes an output in place
    ):
        warnings.filterwarnings("ignore", message=message)


def checkpoint_to_resume(resume: str | None, output_dir: Path) -> Path | None:
    """Return the checkpoint to go on from, if any.

    Raises:
        FileNotFoundError: If ``resume`` names a file that is not there.
    """
    if resume is None:
        return None
    if resume == "auto":
        last = output_dir / "checkpoints" / "last.ckpt"
        return last if last.exists() else None
    if not Path(resume).is_file():
        raise FileNotFoundError(f"resume must be auto, null or a checkpoint; there is no file {resume}")
    return Path(resume)


if __name__ == "__main__":
    main()
