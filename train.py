"""Train a network: ``python train.py experiment=NAME`` (``--help`` lists the groups)."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

# Before torch is imported: OpenMP threads that wait spin for a moment only and then sleep. With the default, training
# on a shared CPU is over ten times slower as soon as anything else runs.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Train as the configuration says."""
    from meanflow.entry import one_line_errors

    with one_line_errors():
        train(config)


def train(config: DictConfig) -> None:
    """Build the parts, start or resume, and write ``summary.json`` when done."""
    # Imported here, so that --help and --cfg answer at once.
    import torch
    from hydra.utils import instantiate
    from lightning.pytorch.utilities import rank_zero_only

    from callbacks import AtomicCheckpointIO
    from meanflow import draws
    from meanflow.checkpoints import load_weights
    from meanflow.models import load_flow_weights

    say = rank_zero_only(print)
    output_dir = Path(config.output_dir)
    checkpoint = checkpoint_to_resume(config.resume, output_dir)
    quiet_lightning()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(draws.generator(config.seed, purpose=draws.INITIALISATION).initial_seed())

    datamodule = instantiate(config.datamodule)
    module = instantiate(config.module)
    datamodule.require_pipeline(module.pipeline)
    if checkpoint is not None:
        say(f"resuming from {checkpoint}")
    elif config.init_from is not None:
        conversion = load_flow_weights(module.network, load_weights(config.init_from))
        say(f"weights from {config.init_from}; new: {conversion.new}; left behind: {conversion.dropped}")

    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback is not None]
    loggers = [instantiate(logger) for logger in config.logger.values() if logger is not None]
    trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, plugins=[AtomicCheckpointIO()])
    start = time.perf_counter()
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    if trainer.is_global_zero:
        OmegaConf.save(config, output_dir / "config.yaml", resolve=True)
        summary = {"seconds": time.perf_counter() - start, "global_step": trainer.global_step}
        (output_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        print(f"done: {output_dir}")


def quiet_lightning() -> None:
    """Silence what Lightning says that does not concern the user here; real warnings still show."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # a store that fits into memory needs none
        ".*smaller than the logging interval.*",  # steps are counted over the whole run, not per epoch
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 with torch 2.14
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
