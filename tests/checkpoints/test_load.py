"""Training checkpoints and official weight files, opened without executing anything."""

import os
import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import meanflow
from callbacks import EMA, LastCheckpoint
from meanflow.checkpoints import load_lightning, load_network, load_weights
from tests import tiny


@pytest.fixture(scope="module")
def checkpoint(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    callbacks = [EMA(0.5), LastCheckpoint(path, every_n_train_steps=1)]
    tiny.fit(
        tiny.dmf_module(), tiny.datamodule(store), path, callbacks=callbacks, enable_checkpointing=True, max_steps=2
    )
    return path / "last.ckpt"


def test_load_needs_no_configuration(checkpoint):
    pipeline = meanflow.load(checkpoint)
    images = pipeline.sample([0, 1, 2], num_steps=2, seed=1)
    assert images.dtype == torch.uint8
    assert images.shape == (3, 1, 4, 4)
    assert not pipeline.network.training


def test_a_teacher_is_frozen(checkpoint):
    network = load_network(checkpoint)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_official_files(tmp_path):
    weights = tiny.flow_pipeline().network.state_dict()
    average = {key: value * 2 for key, value in weights.items()}
    torch.save(weights, tmp_path / "bare.pt")
    torch.save({"model": weights, "ema": average, "steps": 7}, tmp_path / "training.pt")
    key = "final_layer.linear.weight"
    assert torch.equal(load_weights(tmp_path / "bare.pt")[key], weights[key])
    assert torch.equal(load_weights(tmp_path / "training.pt")[key], average[key])
    assert torch.equal(load_weights(tmp_path / "training.pt", ema=False)[key], weights[key])


def test_files_of_the_format_before_zip_archives(tmp_path):
    weights = tiny.flow_pipeline().network.state_dict()
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    found = load_weights(tmp_path / "old.pt")
    assert all(torch.equal(found[key], value) for key, value in weights.items())


class MakeFolder:
    """A pickle that does something when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.path),)


def test_code_in_a_file_is_refused_and_not_executed(tmp_path):
    torch.save({"model": MakeFolder(tmp_path / "touched")}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(MakeFolder(tmp_path / "touched"), protocol=2))
    weights = {"final_layer.linear.weight": torch.ones(1)}
    arguments = Namespace(lr=1, data=MakeFolder(tmp_path / "touched"))
    torch.save({"model": weights, "args": arguments}, tmp_path / "arguments.pt")
    torch.save({"model": weights, "args": Namespace(data=Path("data"))}, tmp_path / "path.pt")
    for name, word in (("evil.pt", "mkdir"), ("plain.pt", "mkdir"), ("arguments.pt", "mkdir"), ("path.pt", "Path")):
        for open_it in (load_weights, meanflow.load):
            with pytest.raises(ValueError, match=rf"{name} is refused: it holds \S*{word}"):
                open_it(tmp_path / name)
    assert not (tmp_path / "touched").exists()


def test_what_is_wrong_is_named(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at nothing\.ckpt"):
        meanflow.load("nothing.ckpt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    torch.save({"layer.weight": torch.ones(1)}, tmp_path / "foreign.pt")
    for open_it in (load_weights, meanflow.load):
        with pytest.raises(ValueError, match="holds no network weights"):
            open_it(tmp_path / "other.pt")
        with pytest.raises(ValueError, match=r"of no known network \(SiT, DMF, iMF\): \['layer\.weight'\]"):
            open_it(tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="no checkpoint of a training run"):
        load_lightning(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="is no exported model"):
        meanflow.load(tmp_path)
    (tmp_path / "short.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"short\.ckpt is truncated or is no checkpoint file"):
        meanflow.load(tmp_path / "short.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["network.logvar_linear.bias"]
    torch.save(content, tmp_path / "missing.ckpt")
    with pytest.raises(ValueError, match=r"missing keys \['logvar_linear\.bias'\]"):
        meanflow.load(tmp_path / "missing.ckpt")
