"""A score while training."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from callbacks import EMA, PeriodicScore
from meanflow.metrics import FrechetDistance
from meanflow.metrics.features import PixelFeatures
from tests import tiny


def periodic(**arguments):
    return PeriodicScore(FrechetDistance(PixelFeatures()), **({"every_n_train_steps": 2} | arguments))


def test_logs_the_distance_and_keeps_the_best_checkpoint(store, tmp_path):
    best = ModelCheckpoint(tmp_path, filename="best", monitor="score/frechet_distance", every_n_train_steps=2)
    trainer = tiny.fit(
        tiny.dmf_module(),
        tiny.datamodule(store),
        tmp_path,
        callbacks=[EMA(0.9), periodic(), best],
        max_steps=4,
        enable_checkpointing=True,
        logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )
    assert trainer.callback_metrics["score/frechet_distance"] > 0
    assert (tmp_path / "best.ckpt").exists()
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("score/frechet_distance")
    assert sum(row.split(",")[column] != "" for row in rows[1:]) >= 2


def test_scoring_does_not_change_training(store, tmp_path):
    modules = [tiny.dmf_module(), tiny.dmf_module()]
    for module, callbacks in zip(modules, ([], [periodic(every_n_train_steps=1)]), strict=True):
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=callbacks, max_steps=3)
    a, b = (module.network.state_dict() for module in modules)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_interval_out_of_range():
    with pytest.raises(ValueError, match="must be at least 1"):
        periodic(every_n_train_steps=0)


pytestmark = [
    # 24 images in 16 dimensions are enough here, but not with the 12 of a half.
    pytest.mark.filterwarnings("ignore:Fréchet distance from"),
    # Several runs of a test share a folder.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
