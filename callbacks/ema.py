"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """``average = decay average + (1 - decay) weights`` after every optimizer step, starting at the initial weights.

    Checkpoints hold the average under ``state_dict`` and the trained weights under ``current_model_state``; both are
    restored on resume. When training ends, the module has the average.

    Args:
        decay: Weight of the past, from 0 to 1.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"ema decay must be from 0 to 1, got {decay}")
        super().__init__(use_buffers=False)
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module when training begins."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            assert self._average_model is not None
            self._average_model.requires_grad_(False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the copy, which was made before the module moved, to the module's device."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after an optimizer step.

        Lightning's own update works tensor by tensor, waits for the device at each step, and starts the average with
        the weights after the first step; this is one fused operation, and it starts with the initial weights.
        """
        if trainer.global_step == self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        assert self._average_model is not None
        average: list[Tensor] = list(self._average_model.module.parameters())
        current: list[Tensor] = list(pl_module.parameters())
        torch._foreach_lerp_(average, current, 1 - self.decay)

    @contextmanager
    def averaged_weights(self, pl_module: LightningModule) -> Iterator[None]:
        """Give the module the averaged weights for a while."""
        if self._average_model is None:
            yield
            return
        self._swap_models(pl_module)
        try:
            yield
        finally:
            self._swap_models(pl_module)


@contextmanager
def evaluation_weights(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Evaluation mode with averaged weights, if the run averages, and with the trainer's precision."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    average = next((callback for callback in callbacks if isinstance(callback, EMA)), None)
    was_training = pl_module.training
    pl_module.eval()
    try:
        with trainer.precision_plugin.val_step_context():
            if average is None:
                yield
            else:
                with average.averaged_weights(pl_module):
                    yield
    finally:
        pl_module.train(was_training)
