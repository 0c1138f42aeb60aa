"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from meanflow.modules.sharding import divided_like, gathered, local


class EMA(Callback):
    """``average = decay average + (1 - decay) weights`` after every optimizer step, starting at the initial weights.

    Checkpoints hold the average under ``state_dict`` and the trained weights under ``current_model_state``; both are
    restored on resume. When training ends, the module has the average. Lightning's ``WeightAveraging`` is not used: it
    keeps a second module, which cannot be sharded, waits for the device at each step, and starts with the weights after
    the first step.

    Args:
        decay: Weight of the past, from 0 to 1.

    Attributes:
        average: The averages by parameter name, sharded as the parameters are; empty before training.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"ema decay must be from 0 to 1, got {decay}")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] = {}
        self._latest_update_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at the weights, or at the average of the checkpoint; by now the strategy has placed the weights."""
        self.average = {
            name: divided_like(self._restored.get(name, parameter), parameter).detach().to(parameter.device).clone()
            for name, parameter in pl_module.named_parameters()
        }
        self._restored = {}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after an optimizer step, in one fused operation that does not wait for the device."""
        if trainer.global_step == self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        averages = [local(average) for average in self.average.values()]
        weights = [local(parameter) for parameter in pl_module.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the module the average for good."""
        for parameter, average in zip(pl_module.parameters(), self.average.values(), strict=True):
            parameter.copy_(average)

    @contextmanager
    def averaged_weights(self, pl_module: LightningModule) -> Iterator[None]:
        """Give the module the averaged weights for a while."""
        self._swap(pl_module)
        try:
            yield
        finally:
            self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        for parameter, average in zip(pl_module.parameters(), self.average.values(), strict=True):
            weight = parameter.clone()
            parameter.copy_(average)
            average.copy_(weight)

    def state_dict(self) -> dict[str, Any]:
        """Return the step of the last update."""
        return {"latest_update_step": self._latest_update_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step of the last update."""
        self._latest_update_step = state_dict["latest_update_step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average in the place of the trained weights, and these beside it."""
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = checkpoint["state_dict"] | self.average

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both; a run that did not average has one state for both."""
        self._restored = checkpoint["state_dict"]
        trained = checkpoint.get("current_model_state", checkpoint["state_dict"])
        trainer.strategy.load_model_state_dict({"state_dict": trained}, strict=True)


@contextmanager
def evaluation_weights(trainer: Trainer, pl_module: Any) -> Iterator[None]:
    """Evaluation mode with averaged weights, if the run averages, and with the trainer's precision.

    All ranks must enter. Inside, calls of the network do not communicate, sharded or not, so that each rank may make as
    many as it has to.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    average = next((callback for callback in callbacks if isinstance(callback, EMA)), None)
    was_training = pl_module.training
    pl_module.eval()
    try:
        with (
            trainer.precision_plugin.val_step_context(),
            nullcontext() if average is None else average.averaged_weights(pl_module),
            gathered(pl_module.network),
        ):
            yield
    finally:
        pl_module.train(was_training)
