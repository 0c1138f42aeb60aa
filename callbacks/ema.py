"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.every_n_steps import EveryNSteps
from callbacks.trainer_parts import find_callback, training_module
from meanflow.modules.sharding import divided_like, gathered, local


class EMA(EveryNSteps):
    """Computes ``average = decay average + (1 - decay) weights`` after every optimizer step.

    The average starts at the initial weights. Checkpoints hold the average under ``state_dict`` and the trained weights
    under ``current_model_state``. A resumed run restores both. When training ends, the module has the average.

    Lightning's ``WeightAveraging`` has three disadvantages: it keeps a second module, which cannot be sharded; it waits
    for the device at each step; and its average starts at the weights after the first step.

    Args:
        decay: Weight of the previous average, from 0 to 1.

    Attributes:
        average: Averages by the name of the parameter, sharded as the parameters are. Empty before training.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        super().__init__(every_n_train_steps=1)
        if not 0 <= decay <= 1:
            raise ValueError(f"ema decay must be from 0 to 1, got {decay}")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the average at the weights, or at the average of the checkpoint.

        The strategy has placed and sharded the weights before this hook.
        """
        super().on_train_start(trainer, pl_module)
        self.average = {
            name: divided_like(self._restored.get(name, parameter), parameter).detach().to(parameter.device).clone()
            for name, parameter in pl_module.named_parameters()
        }
        self._restored = {}

    @torch.no_grad()
    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update the average, in one fused operation that does not wait for the device."""
        averages = [local(average) for average in self.average.values()]
        weights = [local(parameter) for parameter in pl_module.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the weights of the module by the average."""
        for parameter, average in zip(pl_module.parameters(), self.average.values(), strict=True):
            parameter.copy_(average)

    @contextmanager
    def averaged_weights(self, pl_module: LightningModule) -> Iterator[None]:
        """Give the module the averaged weights inside the block, and the trained weights after it."""
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

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as ``state_dict`` and the trained weights as ``current_model_state``."""
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = checkpoint["state_dict"] | self.average

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore average and trained weights. In a checkpoint without an average, one state serves as both."""
        self._restored = checkpoint["state_dict"]
        trained = checkpoint.get("current_model_state", checkpoint["state_dict"])
        trainer.strategy.load_model_state_dict({"state_dict": trained}, strict=True)


@contextmanager
def evaluation_weights(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Switch to evaluation mode, the averaged weights (if the run has them) and the precision of the trainer.

    All ranks must enter. Inside the block, a call of the network does not communicate, even if the network is sharded.
    Ranks may therefore make different numbers of calls.
    """
    average = find_callback(trainer, EMA)
    was_training = pl_module.training
    pl_module.eval()
    try:
        with (
            trainer.precision_plugin.val_step_context(),
            nullcontext() if average is None else average.averaged_weights(pl_module),
            gathered(training_module(pl_module).network),
        ):
            yield
    finally:
        pl_module.train(was_training)
