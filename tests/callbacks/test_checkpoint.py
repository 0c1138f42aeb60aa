"""Checkpoints: the steps that write them, safe reading, and a failed write, which loses no earlier checkpoint."""

import resource

import pytest
import torch

from callbacks import EMA, AtomicCheckpointIO, LastCheckpoint
from meanflow.checkpoints import load
from tests import tiny


@pytest.mark.parametrize(
    ("limits", "last"),
    [({"max_steps": 5}, 5), ({"max_steps": 4}, 4), ({"max_steps": -1, "max_epochs": 2}, 6)],
)
def test_last_step_is_always_saved(store, tmp_path, limits, last):
    callbacks = [EMA(0.9), LastCheckpoint(tmp_path, every_n_train_steps=4)]
    tiny.fit(
        tiny.flow_module(),
        tiny.datamodule(store),
        tmp_path,
        callbacks=callbacks,
        enable_checkpointing=True,
        plugins=[AtomicCheckpointIO()],
        **limits,
    )
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == last
    assert [file.name for file in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    assert content["pipeline"]["network"]["name"] == "SiT"


def test_a_failed_write_keeps_the_previous_checkpoint(tmp_path):
    """The operating system refuses to let files grow, as a full disk would."""
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write checkpoint .*last\.ckpt.*the previous checkpoint"):
            io.save_checkpoint({"step": 2, "weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert io.load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_of_another_architecture_lists_the_differences(store, tmp_path):
    callbacks = [LastCheckpoint(tmp_path, every_n_train_steps=1)]
    data = tiny.datamodule(store)
    tiny.fit(tiny.flow_module(), data, tmp_path, callbacks=callbacks, enable_checkpointing=True, max_steps=1)
    trainer = tiny.trainer(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match=r"of another network: name: 'SiT' instead of 'DMFTransformer'"):
        trainer.fit(tiny.dmf_module(), datamodule=tiny.datamodule(store), ckpt_path=tmp_path / "last.ckpt")


def test_a_truncated_checkpoint_is_named(store, tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1500])
    trainer = tiny.trainer(tmp_path, plugins=[AtomicCheckpointIO()])
    with pytest.raises(ValueError, match=r"last\.ckpt is truncated or is no checkpoint file"):
        trainer.fit(tiny.flow_module(), datamodule=tiny.datamodule(store), ckpt_path=path)


def test_evaluation_takes_the_average(store, tmp_path):
    callbacks = [EMA(0.5), LastCheckpoint(tmp_path, every_n_train_steps=1)]
    data = tiny.datamodule(store)
    tiny.fit(tiny.flow_module(), data, tmp_path, callbacks=callbacks, enable_checkpointing=True, max_steps=2)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    key = "network.final_layer.linear.weight"
    for ema, state in ((True, "state_dict"), (False, "current_model_state")):
        weight = load(tmp_path / "last.ckpt", ema=ema).network.final_layer.linear.weight
        assert torch.equal(weight, content[state][key])
    assert not torch.equal(content["state_dict"][key], content["current_model_state"][key])


def test_interval_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="every_n_train_steps must be at least 1, got 0"):
        LastCheckpoint(tmp_path, every_n_train_steps=0)
