"""The average: its formula, its place in a checkpoint, and a resumed run, which restores average and weights."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from callbacks import EMA, LastCheckpoint
from callbacks.ema import evaluation_weights
from tests import tiny


class Recorder(Callback):
    """Keeps the trained weights after every step."""

    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, module, *_):
        self.weights.append(module.network.final_layer.linear.weight.detach().clone())


def test_average_starts_at_the_initial_weights(store, tmp_path):
    module, ema, recorder = tiny.flow_module(), EMA(decay=0.9), Recorder()
    expected = module.network.final_layer.linear.weight.detach().clone()
    tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=[recorder, ema], max_steps=3)
    for weight in recorder.weights:
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(ema.average["network.final_layer.linear.weight"], expected)


def test_evaluation_weights_are_the_average_and_only_for_a_while(store, tmp_path):
    module, seen = tiny.flow_module(), {}

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            weight = pl_module.network.final_layer.linear.weight
            seen["before"] = weight.detach().clone()
            with evaluation_weights(trainer, pl_module):
                seen["inside"] = weight.detach().clone()
                assert not pl_module.network.training
            seen["after"] = weight.detach().clone()
            assert pl_module.network.training

    ema = EMA(decay=0.5)
    tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=[ema, Look()], max_steps=2)
    assert torch.equal(seen["before"], seen["after"])
    assert not torch.equal(seen["before"], seen["inside"])
    assert torch.equal(seen["inside"], ema.average["network.final_layer.linear.weight"])


def test_checkpoint_holds_both_and_resume_restores_both(store, tmp_path):
    arguments = {"enable_checkpointing": True}
    whole = tiny.flow_module()
    callbacks = [EMA(0.9), LastCheckpoint(tmp_path / "whole", 100)]
    tiny.fit(whole, tiny.datamodule(store), tmp_path, callbacks=callbacks, max_steps=5, **arguments)
    half = [EMA(0.9), LastCheckpoint(tmp_path / "half", 2)]
    tiny.fit(tiny.flow_module(), tiny.datamodule(store), tmp_path, callbacks=half, max_steps=2, **arguments)
    trainer = tiny.trainer(
        tmp_path, callbacks=[EMA(0.9), LastCheckpoint(tmp_path / "half", 2)], max_steps=5, **arguments
    )
    trainer.fit(tiny.flow_module(), datamodule=tiny.datamodule(store), ckpt_path=tmp_path / "half" / "last.ckpt")
    a, b = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "half"))
    for key in ("state_dict", "current_model_state"):
        assert a[key].keys() == b[key].keys()
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])
    assert not all(torch.equal(a["state_dict"][name], a["current_model_state"][name]) for name in a["state_dict"])


def test_averaging_does_not_change_training(store, tmp_path):
    modules = [tiny.flow_module(), tiny.flow_module()]
    for module, callbacks in zip(modules, ([], [EMA(0.9), Peek()]), strict=True):
        tiny.fit(module, tiny.datamodule(store), tmp_path, callbacks=callbacks, max_steps=1)
    trained = [copy.deepcopy(module.network.state_dict()) for module in modules]
    assert any(not torch.equal(trained[0][key], trained[1][key]) for key in trained[0])  # ends with the average
    assert torch.equal(trained[0]["final_layer.linear.weight"], Peek.trained)


class Peek(Callback):
    """Keeps the trained weight before the average replaces it."""

    trained = None

    def on_train_batch_end(self, trainer, module, *_):
        Peek.trained = module.network.final_layer.linear.weight.detach().clone()


def test_accumulated_gradients_update_the_average_once(store, tmp_path):
    module, ema, recorder = tiny.flow_module(), EMA(decay=0.9), Recorder()
    expected = module.network.final_layer.linear.weight.detach().clone()
    tiny.fit(
        module,
        tiny.datamodule(store),
        tmp_path,
        callbacks=[recorder, ema],
        max_steps=1,
        accumulate_grad_batches=3,
    )
    expected = 0.9 * expected + 0.1 * recorder.weights[-1]
    torch.testing.assert_close(ema.average["network.final_layer.linear.weight"], expected)


def test_decay_out_of_range():
    with pytest.raises(ValueError, match=r"ema decay must be from 0 to 1, got 1\.5"):
        EMA(1.5)
