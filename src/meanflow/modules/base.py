"""What all training modules share: draw, call the objective, reduce, log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from meanflow import draws
from meanflow.compilation import CompiledObjective, compile_blocks, compile_blocks_to_shard
from meanflow.modules.sharding import is_sharded, reshard, shard, whole
from meanflow.pipeline import Pipeline
from meanflow.schedules import Constant, LearningRateSchedule
from meanflow.types import LatentBatch, LossOutput

# Settings of a network or an optimizer that change how something is computed, not what.
RUNTIME_SETTINGS = ("attention", "activation_checkpointing", "fused")


class GenerativeModule(LightningModule):
    """Trains the network of a pipeline.

    Args:
        pipeline: Network, codec, normalisation and default sampler.
        objective: Objective with ``draw(shape, generator)``, called ``(network, x, y, draws)``.
        optimizer: Called with the parameters, returns the optimizer.
        schedule: Learning-rate schedule.
        seed: Seed of all training draws.
        compile: What ``torch.compile`` compiles: nothing (``None``), each block of the network (``"blocks"``, ready in
            less than a minute), or the whole step from draws to losses as one graph (``"step"``, which takes many
            minutes for large networks).

    Raises:
        ValueError: If ``compile`` is anything else.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        objective: Any,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: LearningRateSchedule | None = None,
        seed: int = 0,
        compile: str | None = None,
    ) -> None:
        super().__init__()
        if compile not in (None, "blocks", "step"):
            raise ValueError(f"module.compile must be null, blocks or step, got {compile!r}")
        self.network = pipeline.network
        self.pipeline = pipeline
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule or Constant()
        self.seed = seed
        self.compile_mode = compile
        self.losses: Callable[..., LossOutput] = objective
        # Taken now, because a sharded network has another class.
        self.pipeline_config = pipeline.config

    def frozen_networks(self) -> list[nn.Module]:
        """Return networks that take part in the loss but are not trained, averaged or saved."""
        return []

    def setup(self, stage: str) -> None:
        """Compile what was asked for.

        Raises:
            ValueError: If a whole step is to be compiled while the network is to be sharded.
        """
        if stage != "fit":
            return
        if self.compile_mode == "blocks":
            (compile_blocks if self.device_mesh is None else compile_blocks_to_shard)(self.network)
            for network in self.frozen_networks():
                compile_blocks(network)
        if self.compile_mode == "step":
            if self.device_mesh is not None:
                raise ValueError("module.compile=step is one graph, which trainer=fsdp would break; use blocks")
            self.losses = CompiledObjective(self.objective)

    def configure_model(self) -> None:
        """Shard the network, if the strategy is fully sharded."""
        if self.device_mesh is not None and not is_sharded(self.network):
            shard(self.network, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Bring frozen networks to the device."""
        for network in self.frozen_networks():
            network.to(self.device)

    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        """Draw latents and random numbers from the generator and call the objective."""
        x = batch.sample(generator)
        return self.losses(self.network, x, batch.y, self.objective.draw(x.shape, generator))

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch; its random numbers depend on (seed, step, rank) only."""
        # Batches trained on since the start of the run; of Lightning's counters the one that a resumed run continues.
        step: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        losses, diagnostics = self.loss(batch, draws.generator(self.seed, step, self.global_rank))
        loss = losses.mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in diagnostics.items()})
        return loss

    def on_after_backward(self) -> None:
        """Drop what a sharded network has gathered for the step."""
        reshard(self.network)

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the network is, so that the file can be opened without the run's configuration."""
        checkpoint["pipeline"] = self.pipeline_config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint to resume is of this network.

        Raises:
            ValueError: If it is not; the settings that differ are listed.
        """
        if "pipeline" not in checkpoint:
            raise ValueError("the checkpoint to resume is not of a training run of this project")
        saved, own = (config["network"] for config in (checkpoint["pipeline"], self.pipeline_config))
        differences = [
            f"{key}: {saved.get(key)!r} instead of {own.get(key)!r}"
            for key in own | saved
            if saved.get(key) != own.get(key) and key not in RUNTIME_SETTINGS
        ]
        if differences:
            raise ValueError(f"the checkpoint to resume is of another network: {'; '.join(differences)}")

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
