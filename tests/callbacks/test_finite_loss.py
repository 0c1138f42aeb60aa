"""A run with a loss of NaN stops, names the step, and keeps the good checkpoints."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from callbacks import LastCheckpoint, StopOnNonFiniteLoss
from callbacks.finite_loss import NonFiniteLossError
from tests import tiny


class Poison(Callback):
    """Makes a weight NaN before a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step + 1 == self.step:
            module.network.final_layer.linear.weight.data[0, 0] = float("nan")


def test_stops_with_the_step_and_the_last_good_checkpoint(store, tmp_path):
    callbacks = [Poison(4), StopOnNonFiniteLoss(tmp_path), LastCheckpoint(tmp_path, every_n_train_steps=1)]
    with pytest.raises(NonFiniteLossError, match=r"at training step 4; the last good checkpoint is .*last\.ckpt"):
        tiny.fit(
            tiny.flow_module(),
            tiny.datamodule(store),
            tmp_path,
            callbacks=callbacks,
            enable_checkpointing=True,
            max_steps=9,
        )
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == 3
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())


def test_a_diverging_run_stops(store, tmp_path):
    module = tiny.flow_module(optimizer=partial(torch.optim.SGD, lr=1e30))
    with pytest.raises(NonFiniteLossError, match="no checkpoint was written before"):
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=[StopOnNonFiniteLoss(tmp_path)], max_steps=9)


def test_on_a_device_it_looks_at_the_interval_and_before_saving(tmp_path, monkeypatch):
    """What a GPU would do: the bad step is noted, and raised only when somebody looks."""
    callback = StopOnNonFiniteLoss(tmp_path, every_n_train_steps=3)
    callback._first_bad_step = torch.tensor(2)
    with pytest.raises(NonFiniteLossError, match="at training step 2"):
        callback.on_save_checkpoint(None, None, {})
