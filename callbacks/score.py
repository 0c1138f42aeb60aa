"""Scores of the averaged weights during training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from callbacks.ema import evaluation_weights
from callbacks.every_n_steps import EveryNSteps
from callbacks.sample_grid import log_picture
from callbacks.trainer_parts import data_module, generative_module
from meanflow.distributed import Ranks, first_rank_first
from meanflow.evaluation.image_output import GridFile
from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.reference import prepare_scorer
from meanflow.evaluation.run import Evaluator
from meanflow.evaluation.scorer import Scorer
from meanflow.metrics.features import FeatureExtractor


class PeriodicScore(EveryNSteps):
    """Logs the values of a protocol as ``score/NAME``, for samples of the averaged weights on all ranks.

    All scores have the same labels and the same noise. The callback draws no number from the random streams of
    training. It also writes a picture of the first samples.

    Args:
        protocol: Metrics, labels, rounding and reference of the score.
        features: Feature extractors by name.
        dirpath: Folder of the pictures.
        every_n_train_steps: Interval in optimizer steps.
        num_samples: Number of samples, at most the number of data; ``None`` for the protocol's number. With fewer
            samples, distances are biased upwards, by the same amount each time.
        batch_size: Samples on each device at a time.
        seed: Seed of the noise.

    Raises:
        ValueError: If a number is out of range, or a metric is unknown.

    Attributes:
        best: Best headline value of the run so far; ``None`` before the first score. A resumed run restores it.
    """

    def __init__(
        self,
        protocol: Protocol,
        features: Mapping[str, FeatureExtractor],
        dirpath: str | Path,
        every_n_train_steps: int,
        num_samples: int | None = 10_000,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_train_steps)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.protocol = protocol
        self.scorer = Scorer(protocol.metrics, features)
        self.dirpath = Path(dirpath)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.best: float | None = None
        self._evaluator: Evaluator | None = None

    @property
    def headline(self) -> str:
        """Name of the value that ranks checkpoints: the first value of the protocol's first metric."""
        return self.scorer.headline

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher headline value is better."""
        return self.scorer.higher_is_better

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint. Scores that cannot be compared have different state names."""
        return self._generate_state_key(
            protocol=self.protocol.name, headline=self.headline, num_samples=self.num_samples, seed=self.seed
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value so far."""
        self.best = state_dict["best"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fetch the reference and all weights, so that a missing file stops the run before it starts.

        Raises:
            FileNotFoundError: If a file is missing and cannot be downloaded.
            ValueError: If the number of samples is out of range, or the reference lacks statistics that a metric needs.
        """
        ranks, data, num_samples = (
            Ranks(trainer.global_rank, trainer.world_size),
            data_module(trainer),
            self.num_samples,
        )
        if num_samples is not None and self.protocol.needs_data:
            num_samples = min(num_samples, data.num_samples)
        self._evaluator = Evaluator(
            self.scorer,
            self.protocol,
            data=data,
            num_samples=num_samples,
            batch_size=self.batch_size,
            seed=self.seed,
            ranks=ranks,
        )
        with first_rank_first(ranks):
            generative_module(pl_module).pipeline.codec.prepare()
        prepare_scorer(self.scorer, self.protocol, pl_module.device, self.batch_size, ranks)

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, log the values, and remember the best one."""
        assert self._evaluator is not None
        pipeline = generative_module(pl_module).pipeline
        picture = self.dirpath / f"score_step_{trainer.global_step:08d}.png"
        grid = GridFile(picture, num_images=64, num_columns=8, is_first_rank=trainer.is_global_zero)
        with evaluation_weights(trainer, pl_module):
            row = self._evaluator.score(pipeline, pipeline.sampler, [grid])
        self._remember(row.metrics[self.headline])
        values = {f"score/{name}": value for name, value in row.metrics.items()}
        for name, value in values.items():
            # Other callbacks read this value. It does not go to the log, where Lightning would repeat it until the
            # epoch ends.
            pl_module.log(name, torch.tensor(value, device=pl_module.device), logger=False, rank_zero_only=True)
        if trainer.is_global_zero:
            with Image.open(picture) as image:
                for logger in trainer.loggers:
                    logger.log_metrics(values, trainer.global_step)
                    log_picture(logger, "scored_samples", image, trainer.global_step)

    def _remember(self, value: float) -> None:
        if math.isnan(value):
            return
        better = max if self.higher_is_better else min
        self.best = value if self.best is None else better(self.best, value)
