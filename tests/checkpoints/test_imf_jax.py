"""The iMF JAX release, damaged and undamaged. The golden case lists the expected weights."""

import shutil
import sys
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch

import meanflow
from meanflow.checkpoints.imf_jax import is_jax_checkpoint, read_jax_checkpoint

DATA = Path(__file__).parent.parent / "golden" / "data" / "formats" / "imf_jax_checkpoint" / "data"
FOLDER = DATA / "orbax" / "checkpoint_1234"
MSGPACK = DATA / "msgpack" / "checkpoint_1234"


def test_it_is_told_from_other_files(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "torch.pt")
    (tmp_path / "text").write_text("nothing")
    (tmp_path / "empty").touch()
    assert all(map(is_jax_checkpoint, (FOLDER, DATA / "orbax", DATA / "orbax.zip", MSGPACK)))
    assert not any(map(is_jax_checkpoint, (tmp_path, *tmp_path.iterdir(), tmp_path / "none")))


@pytest.mark.parametrize("path", [FOLDER, DATA / "orbax", DATA / "orbax.zip", MSGPACK])
def test_every_form_opens(path):
    pipeline = meanflow.load(path, input_size=8)
    assert type(pipeline.network).__name__ == "IMFTransformer"
    assert pipeline.config["network"]["num_classes"] == 3
    with pytest.raises(ValueError, match=r"num_classes is 3 in the file, but 1000 was stated"):
        meanflow.load(path, num_classes=1000)


def test_a_zipped_msgpack_file_opens(tmp_path):
    with zipfile.ZipFile(tmp_path / "imf.zip", "w") as archive:
        archive.write(MSGPACK, "checkpoint_1234")
    assert read_jax_checkpoint(tmp_path / "imf.zip").step == 1234


@pytest.mark.parametrize("name", ["orbax.zip", "msgpack/checkpoint_1234"])
def test_a_truncated_download_is_named(tmp_path, name):
    content = (DATA / name).read_bytes()
    for size in (len(content) // 2, len(content) - 1, 3):
        (tmp_path / "short").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"short is truncated or is no checkpoint file: \S"):
            meanflow.load(tmp_path / "short")


def test_a_damaged_folder_is_named(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "checkpoint")
    (data,) = (tmp_path / "checkpoint" / "ocdbt.process_0" / "d").iterdir()
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"checkpoint is truncated or is no checkpoint file: \S"):
        meanflow.load(tmp_path / "checkpoint")
    data.unlink()
    with pytest.raises(ValueError, match=r"checkpoint is truncated or is no checkpoint file: \S"):
        meanflow.load(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "manifest.ocdbt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"checkpoint is truncated or is no checkpoint file: \S"):
        meanflow.load(tmp_path / "checkpoint")


def test_one_of_several_must_be_named(tmp_path):
    for name in ("checkpoint_1", "checkpoint_2"):
        shutil.copytree(FOLDER, tmp_path / name)
    with pytest.raises(ValueError, match=r"holds several checkpoints, \['checkpoint_1', 'checkpoint_2'\]"):
        meanflow.load(tmp_path)


def test_a_zip_of_something_else_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
        archive.writestr("b.txt", "b")
    with pytest.raises(ValueError, match=r"other\.zip holds no checkpoint: there is neither manifest\.ocdbt nor"):
        meanflow.load(tmp_path / "other.zip")


def packed(array, dtype=None):
    fields = (list(array.shape), dtype or array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(fields))


def write(path, **state):
    path.write_bytes(msgpack.packb(state))
    return path


def test_weights_that_are_not_there_are_named(tmp_path):
    path = write(tmp_path / "state", ema_params={"net": {"a": packed(np.ones(2, "float32"))}})
    assert read_jax_checkpoint(path).weights["net.a"].tolist() == [1, 1]
    assert read_jax_checkpoint(path).step is None
    with pytest.raises(ValueError, match=r"state holds no weights under 'params', only \['ema_params'\]"):
        read_jax_checkpoint(path, ema=False)
    with pytest.raises(ValueError, match="holds the weights of no known network"):
        meanflow.load(path)
    with pytest.raises(ValueError, match=r"net\.a holds str"):
        read_jax_checkpoint(write(path, params={"net": {"a": "text"}}))


def test_bfloat16_is_read(tmp_path):
    values = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    leaf = packed(values.view(torch.int16).numpy(), "bfloat16")
    found = read_jax_checkpoint(write(tmp_path / "state", params={"net": {"a": leaf}})).weights["net.a"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, values)


@pytest.mark.parametrize(("package", "path"), [("tensorstore", FOLDER), ("msgpack", MSGPACK)])
def test_a_missing_package_is_named(monkeypatch, package, path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package {package}: pip install 'meanflow\[jax-checkpoints\]'"):
        meanflow.load(path)
