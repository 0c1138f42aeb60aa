import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.store.manifest import Manifest
from datamodules.store.reader import LatentStore
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs.normalization import IMF, SCALE_0_18215, identity
from meanflow.files.remote import sha256_of
from tests.datamodules.small_store import moments, write_counter, write_moments


def edit_manifest(store: LatentStore, **changes) -> None:
    path = store.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_read(tmp_path):
    mean, std, y = moments(10)
    store = write_moments(tmp_path / "store", class_names=["a", "b", "c"])
    assert len(store) == 10
    assert [shard.num_samples for shard in store.manifest.shards] == [3, 3, 3, 1]
    assert store.manifest.class_names == ("a", "b", "c")
    assert torch.equal(store.labels, y)
    indices = np.array([9, 0, 4, 4, 2, 3])
    for found, expected in zip(store.gather(indices), (mean, std, y), strict=True):
        assert torch.equal(found, expected[indices])
    store.verify()
    assert sorted(os.listdir(tmp_path)) == ["store"]
    with pytest.raises(IndexError, match=r"indices must lie in \[0, 10\), got 0 to 10"):
        store.gather(np.array([0, 10]))


def test_plain_latents_have_no_std(tmp_path):
    mean, std, y = write_counter(tmp_path / "store", 5).gather(np.array([3]))
    assert std is None
    assert mean.flatten().tolist() == [3, -3]
    assert y.tolist() == [0]


def test_the_manifest_survives_json_and_a_store_survives_pickling(tmp_path):
    store = write_moments(tmp_path / "store", normalization=IMF)
    assert Manifest.from_dict(json.loads(json.dumps(store.manifest.to_dict()))) == store.manifest
    assert store.manifest.normalization == IMF
    assert len(pickle.dumps(store)) < 500
    assert torch.equal(pickle.loads(pickle.dumps(store)).gather(np.arange(10))[0], moments(10)[0])


def writer(path: Path, **changes) -> LatentStoreWriter:
    arguments = {
        "kind": "moments",
        "codec": {"name": "identity", "channels": 4},
        "normalization": SCALE_0_18215,
        "resolution": 32,
        "latent_shape": (4, 4, 4),
        "num_classes": 3,
    }
    return LatentStoreWriter(path, **(arguments | changes))


@pytest.mark.parametrize(
    ("sample", "label", "value", "message"),
    [
        (2, 0, float("nan"), "sample 12: the latent is not finite in float16"),
        (1, 0, 70000.0, "sample 11: the latent is not finite in float16"),
        (3, 3, 0.0, r"sample 13: the label must lie in \[0, 3\), got 3"),
        (0, -1, 0.0, r"sample 10: the label must lie in \[0, 3\), got -1"),
    ],
)
def test_bad_samples_are_named_and_nothing_is_left(tmp_path, sample, label, value, message):
    mean, std, y = moments(10)
    bad_mean, bad_y = mean.clone(), y.clone()
    bad_mean[sample, 1, 2, 3] = value
    bad_y[sample] = label

    def write() -> None:
        with writer(tmp_path / "store", shard_size=4) as w:
            w.append(mean, std, y)
            w.append(bad_mean, std, bad_y)

    with pytest.raises(ValueError, match=message):
        write()
    assert os.listdir(tmp_path) == []


def test_shapes_and_kinds_are_checked(tmp_path):
    mean, std, y = moments(2)
    with writer(tmp_path / "store") as w:
        with pytest.raises(ValueError, match="std must be given for a store of moments"):
            w.append(mean, None, y)
        with pytest.raises(ValueError, match=r"must have latents of the shape \(2, 8, 4, 4\), got \(2, 8, 4, 2\)"):
            w.append(mean[..., :2], std[..., :2], y)
        w.append(mean, std, y)
        with pytest.raises(ValueError, match="sources must be given for all samples or for none, got 2 for 2"):
            w.append(mean, std, y, sources=["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"dtype must be one of .*, got 'bfloat16'"):
        writer(tmp_path / "other", dtype="bfloat16")
    with pytest.raises(ValueError, match="normalization has 1 channels, latent_shape has 4"):
        writer(tmp_path / "other", normalization=identity(1))
    with pytest.raises(ValueError, match="at least one sample"), writer(tmp_path / "other"):
        pass


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "store"
    write_moments(path)
    with pytest.raises(FileExistsError, match="holds a finished store of this configuration"):
        write_moments(path)
    with pytest.raises(FileExistsError, match="whose resolution is 32, the new one has 64"):
        write_moments(path, resolution=64)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="is no valid latent store"):
        write_moments(tmp_path / "folder")


def test_the_first_of_two_writers_wins(tmp_path):
    mean, std, y = moments(4)
    with writer(tmp_path / "store") as slow:
        with writer(tmp_path / "store") as fast:
            fast.append(mean, std, y)
        slow.append(mean + 1, std, y)
    assert torch.equal(LatentStore(tmp_path / "store").gather(np.arange(4))[0], mean)
    assert os.listdir(tmp_path) == ["store"]


def test_damage_is_named(tmp_path):
    store = write_moments(tmp_path / "store")
    shard = store.path / "shard-00001.npy"
    content = shard.read_bytes()

    shard.write_bytes(content[:-2] + b"\x00\x3c")  # another finite number
    with pytest.raises(ValueError, match=r"shard-00001.npy: its sha256 is .*, the manifest has"):
        LatentStore(store.path).verify()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"shard-00001.npy: truncated"):
        LatentStore(store.path)
    shard.write_bytes(content + b"x")
    with pytest.raises(ValueError, match=r"shard-00001.npy: has .* bytes, its header has"):
        LatentStore(store.path)
    np.save(shard, np.zeros((3, 8, 4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match=r"shard-00001.npy: its dtype is float32, the manifest has float16"):
        LatentStore(store.path)
    np.save(shard, np.zeros((2, 8, 4, 4), dtype=np.float16))
    with pytest.raises(ValueError, match=r"shard-00001.npy: its shape is \(2, 8, 4, 4\), the manifest has \(3, "):
        LatentStore(store.path)
    np.save(shard, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"shard-00001.npy: truncated, or not a .npy file"):
        LatentStore(store.path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001.npy: the manifest lists this file"):
        LatentStore(store.path)


def test_labels_and_latents_are_checked_even_if_the_checksums_agree(tmp_path):
    store = write_moments(tmp_path / "store")
    edit_manifest(store, num_classes=2)
    with pytest.raises(ValueError, match=r"labels.npy: the label of sample 2 must lie in \[0, 2\), got 2"):
        LatentStore(store.path)
    edit_manifest(store, num_classes=3)

    for value, message in ((np.nan, "the latent of sample 4 is not finite"), (-1, "sample 4 has a negative standard")):
        rows = np.zeros((3, 8, 4, 4), dtype=np.float16)
        rows[1, 5] = value
        np.save(store.path / "shard-00001.npy", rows)
        shards = store.manifest.to_dict()["shards"]
        shards[1]["sha256"] = sha256_of(store.path / "shard-00001.npy")
        edit_manifest(store, shards=shards)
        with pytest.raises(ValueError, match=f"shard-00001.npy: {message}"):
            LatentStore(store.path).verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format_version must be 2, got 1; remove the store and make it anew"),
        ({"kind": "pixels"}, r"kind must be one of \['moments', 'latents'\], got 'pixels'"),
        ({"num_samples": 11}, "shards hold 10 samples, num_samples is 11"),
        ({"num_samples": "10"}, "num_samples must be a JSON int, got '10'"),
        ({"color": "red"}, r"unknown keys \['color'\]"),
        ({"class_names": ["a"]}, "class_names has 1 entries, num_classes is 3"),
        ({"labels": {"file": "../x", "num_samples": 10, "sha256": "0" * 64}}, "file must be a name inside the store"),
        ({"labels": 3}, "labels must be a JSON dict, got 3"),
    ],
)
def test_bad_manifests_name_file_and_key(tmp_path, changes, message):
    store = write_moments(tmp_path / "store")
    edit_manifest(store, **changes)
    with pytest.raises(ValueError, match=f"manifest.json: {message}"):
        LatentStore(store.path)


def test_no_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a latent store, there is no manifest.json"):
        LatentStore(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: Expecting property name"):
        LatentStore(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest.json: format_version must be 2, got None"):
        LatentStore(tmp_path)
