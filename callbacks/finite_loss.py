"""Stops a run whose loss or gradient is no longer finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.every_n_steps import EveryNSteps


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient became NaN or infinite."""


class StopOnNonFiniteLoss(EveryNSteps):
    """Raises ``NonFiniteLossError`` with the number of the first bad batch; no checkpoint is written after that batch.

    On a GPU, reading each loss would make the host wait. The device therefore stores the number of the first bad batch.
    The host reads the number every n steps and before each checkpoint. On a CPU, the host reads it after each batch.

    Args:
        dirpath: Folder of the checkpoints. The error names the last checkpoint in it.
        every_n_train_steps: Optimizer steps between two readings on a GPU.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int = 50) -> None:
        super().__init__(every_n_train_steps)
        self.dirpath = Path(dirpath)
        self._first_bad_step: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the number of this batch if loss or gradient is not finite and no earlier batch was bad."""
        norm = getattr(pl_module, "gradient_norm", None)
        watched = [value for value in (outputs["loss"].detach(), norm) if value is not None]
        bad = ~torch.stack([torch.isfinite(value) for value in watched]).all()
        if self._first_bad_step is None:
            self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=bad.device)
        step = trainer.fit_loop.total_batch_idx + 1
        self._first_bad_step = torch.where((self._first_bad_step < 0) & bad, step, self._first_bad_step)
        if bad.device.type == "cpu":
            self._read()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the number of the first bad batch."""
        self._read()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the number of the first bad batch before a checkpoint is written."""
        self._read()

    def _read(self) -> None:
        if self._first_bad_step is None or (step := int(self._first_bad_step)) < 0:
            return
        good = sorted(self.dirpath.glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
        advice = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written before"
        raise NonFiniteLossError(f"the loss or its gradient is not finite at training step {step}; {advice}")
