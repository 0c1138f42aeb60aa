"""A Fréchet distance while training."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from callbacks.ema import evaluation_weights
from meanflow.evaluation import chosen_data, data_images, sampled_images, score, set_reference
from meanflow.metrics.frechet import FrechetDistance


class PeriodicScore(Callback):
    """Logs ``score/frechet_distance`` between samples, drawn with the averaged weights, and the training data.

    The samples have the data's labels and fixed noise. For a codec with loss the data are its reconstructions.

    Args:
        metric: The distance, with its feature space.
        every_n_train_steps: Interval in optimizer steps.
        num_samples: Number of samples; of the data too, if it has more.
        batch_size: Samples drawn at once on each device.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        metric: FrechetDistance,
        every_n_train_steps: int,
        num_samples: int = 10_000,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if min(every_n_train_steps, num_samples, batch_size) < 1:
            raise ValueError(
                "every_n_train_steps, num_samples and batch_size must be at least 1, "
                f"got {every_n_train_steps}, {num_samples}, {batch_size}"
            )
        self.metric = metric
        self.every_n_train_steps = every_n_train_steps
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self._has_reference = False
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Fetch the codec's weights now, not after hours of training."""
        pl_module.pipeline.codec.prepare()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Note the step that the run starts or resumes at."""
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Score at the interval."""
        step = trainer.global_step
        if step == self._last_step or step % self.every_n_train_steps:
            return
        self._last_step = step
        self.metric.to(pl_module.device)
        data = trainer.datamodule  # type: ignore[attr-defined]
        chosen = chosen_data(data, min(self.num_samples, data.num_samples))
        indices = range(trainer.global_rank, len(chosen), trainer.world_size)
        own = [chosen[index] for index in indices]
        with evaluation_weights(trainer, pl_module):
            if not self._has_reference:
                set_reference(
                    self.metric,
                    data_images(pl_module.pipeline, data, own, self.batch_size),
                )
                self._has_reference = True
            images = sampled_images(
                pl_module.pipeline, data.labels[chosen], self.seed, batch_size=self.batch_size, indices=indices
            )
            distance = score(self.metric, images)
        pl_module.log("score/frechet_distance", torch.tensor(distance, device=pl_module.device), rank_zero_only=True)
