"""Pictures while training."""

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from callbacks import EMA, SampleGrid
from tests import tiny


def test_writes_at_the_interval_and_at_the_end(store, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    grid = SampleGrid(tmp_path / "samples", every_n_train_steps=2, num_rows=2)
    tiny.fit(
        tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=[EMA(0.9), grid], max_steps=5, logger=logger
    )
    files = sorted((tmp_path / "samples").iterdir())
    assert [file.name for file in files] == [f"step_{step:08d}.png" for step in (2, 4, 5)]
    picture = np.asarray(Image.open(files[0]))
    assert picture.shape == (2 * 65, tiny.NUM_CLASSES * 65, 3)  # 4x4 images enlarged to 64 and a line
    assert picture.std() > 0


def test_sampling_pictures_does_not_change_training(store, tmp_path):
    modules = [tiny.flow_module(), tiny.flow_module()]
    grid = SampleGrid(tmp_path / "samples", every_n_train_steps=1, num_rows=1)
    for module, callbacks in zip(modules, ([], [grid]), strict=True):
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=callbacks, max_steps=3)
    a, b = (module.network.state_dict() for module in modules)
    assert all((a[key] == b[key]).all() for key in a)


def test_accumulated_gradients_count_once(store, tmp_path):
    grid = SampleGrid(tmp_path / "samples", every_n_train_steps=1, num_rows=1)
    tiny.fit(
        tiny.flow_module(),
        tiny.datamodule(store),
        tmp_path,
        callbacks=[grid],
        max_steps=2,
        accumulate_grad_batches=3,
    )
    assert sorted(file.name for file in (tmp_path / "samples").iterdir()) == [
        "step_00000001.png",
        "step_00000002.png",
    ]


def test_interval_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="must be at least 1"):
        SampleGrid(tmp_path, every_n_train_steps=0)
