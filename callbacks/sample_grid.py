"""Pictures of samples while training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from callbacks.ema import evaluation_weights
from callbacks.every_n_steps import EveryNSteps, is_last_step
from callbacks.trainer_parts import generative_module
from meanflow.display.image_grid import image_grid
from meanflow.modules import GenerativeModule


class SampleGrid(EveryNSteps):
    """Writes a picture of samples as a PNG file, and sends it to the loggers.

    All pictures have the same labels and the same noise. The averaged weights make the samples. The callback writes a
    picture at each interval and after the last step of a run.

    Args:
        dirpath: Folder of the pictures.
        every_n_train_steps: Interval in optimizer steps.
        num_rows: Samples per class.
        num_columns: Number of classes. The picture shows the first classes.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int,
        num_rows: int = 4,
        num_columns: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_train_steps)
        if min(num_rows, num_columns) < 1:
            raise ValueError(f"num_rows and num_columns must be at least 1, got {num_rows} and {num_columns}")
        self.dirpath = Path(dirpath)
        self.num_rows = num_rows
        self.num_columns = num_columns
        self.seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fetch the weights of the codec, so that a missing file stops the run before it starts."""
        generative_module(pl_module).pipeline.codec.prepare()

    def on_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a picture at the interval and after the last step."""
        if is_last_step(trainer):
            self.on_interval(trainer, pl_module)
        else:
            super().on_step(trainer, pl_module)

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the picture on the first rank. All ranks take part, because sharded weights are gathered first."""
        module = generative_module(pl_module)
        with evaluation_weights(trainer, module):
            if trainer.is_global_zero:
                self._write(trainer, module)

    def _write(self, trainer: Trainer, module: GenerativeModule) -> None:
        num_columns = min(self.num_columns, module.network.num_classes)
        labels = torch.arange(num_columns).repeat(self.num_rows)
        picture = image_grid(module.pipeline.sample(labels, seed=self.seed), num_columns)
        self.dirpath.mkdir(parents=True, exist_ok=True)
        picture.save(self.dirpath / f"step_{trainer.global_step:08d}.png")
        for logger in trainer.loggers:
            log_picture(logger, "samples", picture, trainer.global_step)


def log_picture(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Send a picture to a logger, if the logger takes pictures."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step=step)
