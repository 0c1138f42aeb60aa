"""Exported folders."""

import pytest
import torch
import yaml

import meanflow
from meanflow.checkpoints import save_folder
from tests import tiny


@pytest.mark.parametrize("make", [tiny.flow_pipeline, tiny.dmf_pipeline])
def test_round_trip_is_exact(tmp_path, make):
    pipeline = make()
    save_folder(pipeline, tmp_path / "model")
    loaded = meanflow.load(tmp_path / "model")
    assert loaded.config == pipeline.config
    state = loaded.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in pipeline.network.state_dict().items())
    pipeline.network.eval()
    labels = [0, 1, 2]
    assert torch.equal(loaded.sample(labels, seed=3), pipeline.sample(labels, seed=3))


def test_weights_can_be_read_by_others(tmp_path):
    folder = save_folder(tiny.flow_pipeline(), tmp_path / "model")
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_existing_folder_is_not_overwritten(tmp_path):
    save_folder(tiny.flow_pipeline(), tmp_path / "model")
    with pytest.raises(FileExistsError, match="exists already"):
        save_folder(tiny.flow_pipeline(), tmp_path / "model")


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    pipeline = tiny.flow_pipeline()
    monkeypatch.setattr(type(pipeline), "config", property(lambda self: {"bad": object()}))
    with pytest.raises(yaml.YAMLError):
        save_folder(pipeline, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_named(tmp_path):
    path = save_folder(tiny.flow_pipeline(), tmp_path / "model")
    weights = path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:100])
    with pytest.raises(ValueError, match="is damaged"):
        meanflow.load(path)
    weights.write_bytes(content)
    config = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(config | {"network": config["network"] | {"depth": 3}}))
    with pytest.raises(ValueError, match=r"another architecture: missing keys \['blocks\.2\."):
        meanflow.load(path)
    (path / "config.yaml").write_text("network: {name: SiT}")
    with pytest.raises(ValueError, match=r"lacks \['codec', 'normalization', 'sampler'\]"):
        meanflow.load(path, depth=2)
    (path / "config.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold a mapping, got list"):
        meanflow.load(path)
    (path / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no config\.yaml"):
        meanflow.load(path)


def test_a_config_cannot_execute_code(tmp_path):
    path = save_folder(tiny.flow_pipeline(), tmp_path / "model")
    (path / "config.yaml").write_text(f"!!python/object/apply:pathlib.Path.touch [{tmp_path / 'touched'}]")
    with pytest.raises(ValueError, match="is damaged"):
        meanflow.load(path)
    assert not (tmp_path / "touched").exists()
