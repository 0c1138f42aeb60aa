"""The base class of training modules: draw, call the objective, reduce, log."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer

from meanflow import random_streams
from meanflow.modules.data import TrainingData
from meanflow.modules.schedules import Constant, LearningRateSchedule
from meanflow.modules.sharding import whole
from meanflow.types import LatentBatch, LossOutput


class TrainingModule(LightningModule):
    """Trains a network. The random numbers of a batch depend on (seed, step, rank) only.

    Args:
        network: The network that is trained.
        objective: The objective that is minimized.
        optimizer: Called with the parameters, returns the optimizer.
        schedule: Learning-rate schedule.
        seed: Seed of all training draws.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: object,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: LearningRateSchedule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule or Constant()
        self.seed = seed

    @abstractmethod
    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        """Draw random numbers from the generator and call the objective."""

    @abstractmethod
    def require_data(self, datamodule: TrainingData) -> None:
        """Check that a data module has the latents or images that the network is made for.

        Raises:
            ValueError: If it has others.
        """

    def training_step(self, batch: LatentBatch, batch_idx: int) -> dict[str, Any]:
        """Return the mean ``loss`` of a batch, and ``by_t`` of its samples for callbacks."""
        # Batches trained on since the start of the run; of Lightning's counters the one that a resumed run continues.
        step: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        losses, diagnostics, by_t = self.loss(batch, random_streams.generator(self.seed, step, self.global_rank))
        loss = losses.mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in diagnostics.items()})
        return {"loss": loss, "by_t": by_t}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and the schedule, which advances at every optimizer step."""
        optimizer = self.optimizer([parameter for parameter in self.network.parameters() if parameter.requires_grad])
        total_steps, steps_per_epoch = self._num_steps()
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.schedule.factor(step, total_steps, steps_per_epoch)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the total norm of the gradient to ``trainer.gradient_clip_val`` and log the norm before clipping."""
        if gradient_clip_algorithm not in (None, "norm"):
            given = getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm)  # Lightning passes an enum
            raise ValueError(f"trainer.gradient_clip_algorithm must be 'norm', got {given!r}")
        limit = gradient_clip_val or float("inf")
        self.gradient_norm = whole(nn.utils.clip_grad_norm_(self.network.parameters(), limit).detach())
        self.log("train/grad_norm", self.gradient_norm)

    def _num_steps(self) -> tuple[int, int]:
        """Return the optimizer steps of the run (-1 without an end) and of an epoch."""
        trainer = self.trainer
        batches = trainer.datamodule.batches_per_epoch  # type: ignore[attr-defined]
        if trainer.limit_train_batches is not None and isinstance(trainer.limit_train_batches, int):
            batches = min(batches, trainer.limit_train_batches)
        steps_per_epoch = -(-batches // trainer.accumulate_grad_batches)
        if trainer.max_steps >= 0:
            return trainer.max_steps, steps_per_epoch
        return (trainer.max_epochs or -1) * steps_per_epoch if (trainer.max_epochs or -1) > 0 else -1, steps_per_epoch
