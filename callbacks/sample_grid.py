"""Pictures of samples while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from callbacks.ema import evaluation_weights
from meanflow.display.image_grid import image_grid


class SampleGrid(Callback):
    """Draws the same labels from the same noise, with the averaged weights, as a PNG and to the logger.

    Args:
        dirpath: Folder of the pictures.
        every_n_train_steps: Interval in optimizer steps; a picture is also drawn when training ends.
        num_rows: Samples per class.
        num_columns: Number of classes, from the first on.
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
        if min(every_n_train_steps, num_rows, num_columns) < 1:
            raise ValueError(
                "every_n_train_steps, num_rows and num_columns must be at least 1, "
                f"got {every_n_train_steps}, {num_rows}, {num_columns}"
            )
        self.dirpath = Path(dirpath)
        self.every_n_train_steps = every_n_train_steps
        self.num_rows = num_rows
        self.num_columns = num_columns
        self.seed = seed
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Fetch the codec's weights now, not after hours of training."""
        pl_module.pipeline.codec.prepare()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step that the run starts or resumes at."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw at the interval."""
        step = trainer.global_step
        if step != self._last_step and (step % self.every_n_train_steps == 0 or step == trainer.max_steps):
            self._last_step = step
            self.draw(trainer, pl_module)

    def draw(self, trainer: Trainer, pl_module: Any) -> None:
        """Write ``step_<n>.png`` and hand the picture to the loggers; rank 0 does, with weights that all bring."""
        with evaluation_weights(trainer, pl_module):
            if trainer.is_global_zero:
                self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: Any) -> None:
        num_columns = min(self.num_columns, pl_module.network.num_classes)
        labels = torch.arange(num_columns).repeat(self.num_rows)
        picture = image_grid(pl_module.pipeline.sample(labels, seed=self.seed), num_columns)
        self.dirpath.mkdir(parents=True, exist_ok=True)
        picture.save(self.dirpath / f"step_{trainer.global_step:08d}.png")
        for logger in trainer.loggers:
            log_picture(logger, "samples", picture, trainer.global_step)


def log_picture(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Hand a picture to a logger that takes pictures."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step=step)
