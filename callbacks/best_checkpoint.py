"""The checkpoint with the best score."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.score import PeriodicScore
from callbacks.trainer_parts import find_callback


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the checkpoint with the best headline value so far.

    The trainer's first ``PeriodicScore`` computes the value, and sets its name, its direction and the interval.

    Args:
        dirpath: Folder of the checkpoint.
    """

    def __init__(self, dirpath: str | Path) -> None:
        super().__init__(dirpath=dirpath, filename="best", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint. Earlier versions used Lightning's class; the name is still its name."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take name, direction and interval from the score.

        Raises:
            ValueError: If the trainer has no ``PeriodicScore``.
        """
        score = find_callback(trainer, PeriodicScore)
        if score is None:
            raise ValueError(
                "callbacks.best keeps the checkpoint with the best score, and callbacks.score is null: "
                "set callbacks.best=null too"
            )
        if self.monitor is None:  # Lightning takes these arguments in the constructor only
            super().__init__(
                dirpath=self.dirpath,
                filename="best",
                monitor=f"score/{score.headline}",
                mode="max" if score.higher_is_better else "min",
                every_n_train_steps=score.every_n_train_steps,
                enable_version_counter=False,
            )
        super().setup(trainer, pl_module, stage)
