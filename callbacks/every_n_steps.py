"""Work that a callback does every n optimizer steps."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EveryNSteps(Callback):
    """Calls ``on_step`` after every optimizer step, and ``on_interval`` after every n-th optimizer step.

    If gradients are accumulated over several batches, the step counts once. A resumed run does not count the step that
    it resumes at.

    Args:
        every_n_train_steps: Interval in optimizer steps, at least 1.

    Raises:
        ValueError: If the interval is out of range.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        super().__init__()
        if every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}")
        self.every_n_train_steps = every_n_train_steps
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step that the run starts or resumes at."""
        super().on_train_start(trainer, pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call ``on_step`` if the batch completed an optimizer step."""
        if trainer.global_step == self._last_step:  # gradients are being accumulated
            return
        self._last_step = trainer.global_step
        self.on_step(trainer, pl_module)

    def on_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call ``on_interval`` if the interval is over."""
        if trainer.global_step % self.every_n_train_steps == 0:
            self.on_interval(trainer, pl_module)

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do the work of the callback. All ranks call this method."""


def is_last_step(trainer: Trainer) -> bool:
    """Return whether the current batch is the last batch of the run."""
    if trainer.should_stop or trainer.global_step == trainer.max_steps:
        return True
    return bool(trainer.is_last_batch and trainer.max_epochs and trainer.current_epoch + 1 == trainer.max_epochs)
