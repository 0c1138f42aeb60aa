"""The last checkpoint of a run, written so that a killed run leaves no half checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacks.every_n_steps import is_last_step
from meanflow.files.atomic import atomic_file
from meanflow.files.torch_file import read_torch_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a scratch file and renames that file, so that a reader never meets half a checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            OSError: If the checkpoint cannot be written, for example to a full disk. An earlier file at ``path``
                remains.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_file(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            kept = f"the previous checkpoint {path} is still valid" if path.exists() else "there is no earlier one"
            raise OSError(f"cannot write checkpoint {path}: {str(error).splitlines()[0]}; {kept}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint onto the CPU. Nothing in the file is executed.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is truncated or is no checkpoint.
        """
        return read_torch_file(path)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt`` up to date: every n optimizer steps and after the last step.

    Args:
        dirpath: Folder of the checkpoints.
        every_n_train_steps: Interval in optimizer steps.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int) -> None:
        if every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}")
        super().__init__(
            dirpath=dirpath,
            every_n_train_steps=every_n_train_steps,
            save_last=True,
            save_top_k=0,
            enable_version_counter=False,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at the end of an interval, and after the last step of the run.

        Lightning saves the last step in a hook at the end of training. At that time the averaged weights have replaced
        the trained weights.
        """
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if is_last_step(trainer) and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing, because the last step has been saved already."""
