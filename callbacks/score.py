"""Scores while training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from callbacks.ema import evaluation_weights
from callbacks.every_n_steps import EveryNSteps
from callbacks.sample_grid import log_picture
from callbacks.trainer_parts import data_module, generative_module
from meanflow.distributed import Ranks
from meanflow.evaluation.image_output import GridFile
from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.reference import chosen_data, compare_with_data, compare_with_file, protocol_reference
from meanflow.evaluation.run import sample_count, sampled_images
from meanflow.evaluation.scorer import ImageBatch, Scorer
from meanflow.metrics.features import FeatureExtractor
from meanflow.metrics.reference import Reference


class PeriodicScore(EveryNSteps):
    """Logs the values of a protocol as ``score/NAME``, for samples drawn with the averaged weights on all ranks.

    Labels and noise are the same each time, and no random stream of the training is touched. The first samples are
    drawn as a picture.

    Args:
        protocol: What is measured, and how.
        features: Feature extractors by name.
        dirpath: Folder of the pictures.
        every_n_train_steps: Interval in optimizer steps.
        num_samples: Number of samples; ``None`` for the protocol's. Of fewer, distances are biased upwards, but by the
            same amount each time.
        batch_size: Samples drawn at once on each device.
        seed: Seed of the noise.
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
        self._total = 0
        self._has_reference = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fetch the reference and weights now, not after hours of training; one rank first, for one download.

        Raises:
            FileNotFoundError: If one of them cannot be had.
            ValueError: If the number of samples is out of range, or the reference lacks what a metric needs.
        """
        ranks = Ranks(trainer.global_rank, trainer.world_size)
        data, wanted = data_module(trainer), self.num_samples
        if wanted is not None and self.protocol.needs_data:
            wanted = min(wanted, data.num_samples)
        self._total = sample_count(self.protocol, wanted, data, ranks)
        if trainer.is_global_zero:
            self._fetch(pl_module)
        trainer.strategy.barrier()
        reference = self._fetch(pl_module)
        if reference is not None:
            compare_with_file(self.scorer, reference, pl_module.device, self.batch_size, ranks)
            self._has_reference = True

    def _fetch(self, pl_module: LightningModule) -> Reference | None:
        reference = None if self.protocol.reference is None else protocol_reference(self.protocol)
        generative_module(pl_module).pipeline.codec.prepare()
        self.scorer.prepare()
        return reference

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, and log the values."""
        step = trainer.global_step
        ranks = Ranks(trainer.global_rank, trainer.world_size)
        picture = self.dirpath / f"score_step_{step:08d}.png"
        with evaluation_weights(trainer, pl_module):
            values = self._score(data_module(trainer), generative_module(pl_module).pipeline, picture, ranks)
        values = {f"score/{name}": value for name, value in values.items()}
        for name, value in values.items():
            # For ModelCheckpoint alone: in the log, Lightning would repeat a value until the epoch ends.
            pl_module.log(name, torch.tensor(value, device=pl_module.device), logger=False, rank_zero_only=True)
        if trainer.is_global_zero:
            with Image.open(picture) as image:
                for logger in trainer.loggers:
                    logger.log_metrics(values, step)
                    log_picture(logger, "scored_samples", image, step)

    def _score(self, data: Any, pipeline: Any, picture: Path, ranks: Ranks) -> dict[str, float]:
        data_labels = None
        if self.protocol.needs_data:
            chosen = chosen_data(data, self._total)
            data_labels = data.labels[chosen]
            if not self._has_reference:
                compare_with_data(self.scorer, pipeline, data, chosen, self.batch_size, ranks)
                self._has_reference = True
        labels = self.protocol.labels(self._total, pipeline.network.num_classes, data_labels)
        grid = GridFile(picture, num_images=64, num_columns=8, is_first_rank=ranks.rank == 0)

        def watched() -> Iterator[ImageBatch]:
            for batch in sampled_images(
                pipeline, self.protocol, labels, self.seed, batch_size=self.batch_size, ranks=ranks
            ):
                grid.add(*batch)
                yield batch

        values = self.scorer.score(watched())
        grid.finish()
        return values
