"""Stops a run whose loss or gradient is no longer finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient became NaN or infinite."""


class StopOnNonFiniteLoss(Callback):
    """Raises ``NonFiniteLossError`` with the step; a checkpoint is never written after that step.

    On a GPU the host must not wait for each loss, so the first bad step is kept on the device and looked at every n
    steps and before each checkpoint.

    Args:
        every_n_train_steps: Interval of the look, in batches; CPUs look at every one.
        dirpath: Folder of the checkpoints, to name the last good one.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int = 50) -> None:
        self.dirpath = Path(dirpath)
        self.every_n_train_steps = every_n_train_steps
        self._first_bad_step: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note whether this step was bad."""
        norm = getattr(pl_module, "gradient_norm", None)
        watched = [value for value in (outputs["loss"].detach(), norm) if value is not None]
        bad = ~torch.stack([torch.isfinite(value) for value in watched]).all()
        if self._first_bad_step is None:
            self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=bad.device)
        step = trainer.fit_loop.total_batch_idx + 1
        self._first_bad_step = torch.where((self._first_bad_step < 0) & bad, step, self._first_bad_step)
        if bad.device.type == "cpu" or step % self.every_n_train_steps == 0:
            self._look()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before a checkpoint is written."""
        self._look()

    def _look(self) -> None:
        if self._first_bad_step is None or (step := int(self._first_bad_step)) < 0:
            return
        good = sorted(self.dirpath.glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
        advice = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written before"
        raise NonFiniteLossError(f"the loss or its gradient is not finite at training step {step}; {advice}")
