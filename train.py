"""Train a network: ``python train.py experiment=NAME`` (``--help`` lists the groups)."""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from command_line import options, program

# Before torch is imported: OpenMP threads that wait spin for a moment only and then sleep. With the default, training
# on a shared CPU is over ten times slower as soon as anything else runs.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@program("train")
def main(config: DictConfig) -> float | None:
    """Train as the configuration says; return the best score, which a sweeper optimizes."""
    return train(config)


def train(config: DictConfig) -> float | None:
    """Build the parts, then start the run, or go on with it.

    Returns:
        The best value of the headline metric of the whole run; ``None`` if the run did not score.
    """
    # Imported here, so that --help and --cfg answer at once.
    import torch
    from hydra.utils import instantiate
    from lightning.pytorch.utilities import rank_zero_only

    from callbacks import AtomicCheckpointIO, PeriodicScore
    from meanflow import random_streams
    from meanflow.checkpoints import load_weights
    from meanflow.checkpoints.lightning import can_be_resumed
    from meanflow.files.atomic import atomic_file
    from meanflow.files.torch_file import read_torch_file
    from meanflow.models import load_flow_weights

    print_once = rank_zero_only(print)
    require_values(config)
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
            print_once(
                f"{output_dir} has finished: {step} of {config.trainer.max_steps} steps. "
                "resume=null starts anew, name=... starts another run, trainer.max_steps=... goes on"
            )
            return recorded_score(config, content)
        print_once(f"resuming from {checkpoint} at step {step}")

    quiet_lightning()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(random_streams.generator(config.seed, purpose=random_streams.INITIALIZATION).initial_seed())
    module = instantiate(config.module)
    datamodule = instantiate(config.datamodule)
    module.require_data(datamodule)
    if checkpoint is None and config.init_from is not None:
        conversion = load_flow_weights(module.network, load_weights(config.init_from))
        print_once(f"weights from {config.init_from}; new: {conversion.new}; left behind: {conversion.dropped}")

    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback is not None]
    loggers = [instantiate(logger) for logger in config.logger.values() if logger is not None]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, plugins=[AtomicCheckpointIO()])
    if trainer.is_global_zero:
        output_dir.mkdir(parents=True, exist_ok=True)
        with atomic_file(output_dir / "config.yaml") as file:
            file.write(OmegaConf.to_yaml(config, resolve=True).encode())
    start = time.perf_counter()
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    print_once(f"done: {output_dir}, step {trainer.global_step}, {time.perf_counter() - start:.0f} s in this session")
    scores = [callback for callback in callbacks if isinstance(callback, PeriodicScore)]
    return scores[0].best if scores else None


def recorded_score(config: DictConfig, checkpoint: dict[str, Any]) -> float | None:
    """Return the best score that a checkpoint records; ``None`` if the run did not score."""
    from hydra.utils import instantiate

    if config.callbacks.get("score") is None:
        return None
    return checkpoint["callbacks"].get(instantiate(config.callbacks.score).state_key, {}).get("best")


def require_values(config: DictConfig) -> None:
    """Check that every value is there and of the type that its constructor takes, before anything is built.

    Raises:
        ValueError: If one is not; the message names its key.
    """
    from meanflow.configuration import require_arguments

    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"a value must be given for {', '.join(sorted(missing))}")
    if isinstance(config.seed, bool) or not isinstance(config.seed, int):
        raise ValueError(f"seed must be a whole number, got {config.seed!r}")
    require_arguments(OmegaConf.to_container(config, resolve=True), options)


def require_same_run(config: DictConfig, saved: Path) -> None:
    """Check that a run to go on with was started with the same settings.

    Raises:
        ValueError: If a setting differs that the result depends on; all of them are listed.
    """
    from meanflow.configuration import require_same_settings

    if saved.is_file():
        before = OmegaConf.to_container(OmegaConf.load(saved))
        require_same_settings(before, OmegaConf.to_container(config, resolve=True), str(saved.parent))


def quiet_lightning() -> None:
    """Silence messages of Lightning that do not concern the user here; other warnings still show."""
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
