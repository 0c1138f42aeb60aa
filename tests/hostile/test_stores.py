"""Stores, arrays and official data sets that name other files, claim wrong sizes, or hold impossible numbers."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.images.source_images import SourceImages
from datamodules.latents import LatentDataModule
from datamodules.preparation.official import convert_to_store, open_official
from datamodules.store.describe import describe_store
from datamodules.store.reader import LatentStore
from datamodules.store.source_paths import write_paths
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity
from meanflow.files.npy import read_npy, read_npy_header
from meanflow.files.npz_images import NpzImages
from tests.datamodules.small_store import write_moments


def header(shape: tuple[int, ...], descr: object = "<f4", version: int = 1, length: int | None = None) -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def change_manifest(path: Path, **values) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def store(tmp_path):
    write_moments(tmp_path / "store", shard_size=10)
    return tmp_path / "store"


@pytest.mark.parametrize("name", ["/etc/passwd", "../labels.npy", "a/../labels.npy", "..", "", 3, None])
def test_a_manifest_names_files_of_its_own_folder_only(store, name):
    entry = json.loads((store / "manifest.json").read_text())["labels"]
    change_manifest(store, labels=entry | {"file": name})
    with pytest.raises(ValueError, match=r"manifest\.json: file must be a name inside the store"):
        LatentStore(store)


@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "device"])
def test_files_of_a_store_are_regular_files_in_its_folder(store, tmp_path, kind):
    labels = store / "labels.npy"
    labels.rename(tmp_path / "elsewhere.npy")
    if kind == "pipe":
        os.mkfifo(labels)
    else:
        labels.symlink_to({"link": tmp_path / "elsewhere.npy", "loop": labels, "device": "/dev/zero"}[kind])
    with pytest.raises(ValueError, match=r"store: 'labels\.npy' is a "):
        LatentStore(store)


def test_a_link_inside_of_the_store_is_followed(store):
    (store / "labels.npy").rename(store / "other.npy")
    (store / "labels.npy").symlink_to("other.npy")
    assert len(LatentStore(store)) == 10


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png", "x.png"])
def test_names_of_source_images_lie_in_their_folder(tmp_path, name):
    os.mkfifo(tmp_path / "x.png")
    with LatentStoreWriter(
        tmp_path / "store",
        kind="latents",
        codec=IdentityCodec(1).config,
        normalization=identity(1),
        resolution=2,
        latent_shape=(1, 2, 2),
        num_classes=1,
        image_root=str(tmp_path),
    ) as writer:
        writer.append(torch.zeros(1, 1, 2, 2), None, torch.zeros(1, dtype=torch.int64), [name])
    with pytest.raises(ValueError, match=r"names must|is a pipe or a device"):
        SourceImages(LatentStore(tmp_path / "store")).crops(np.array([0]))


def test_a_manifest_that_is_nested_too_deeply(store):
    (store / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"manifest\.json: nested too deeply"):
        LatentStore(store)


def test_any_number_of_classes_takes_no_memory(store):
    change_manifest(store, num_classes=10**15)
    assert "classes        1000000000000000, 0 to 4 samples each" in describe_store(store)


def test_ends_of_source_paths_increase(store):
    text, ends = write_paths(store, [f"{i}" for i in range(10)])
    array = np.load(store / ends.file)
    array[3] = 10**12
    np.save(store / ends.file, array)
    change_manifest(store, sources=vars(text), source_ends=vars(ends))
    with pytest.raises(ValueError, match="the ends of the paths do not increase"):
        _ = LatentStore(store).sources


HEADERS = {
    "nothing": b"",
    "cut": header((2, 2))[:20],
    "another version": b"\x93NUMPY\x09\0" + header((2, 2))[8:],
    "a long header": header((2, 2), version=2, length=2**32 - 1),
    "a header beyond the end": header((2, 2), length=60_000),
    "ten to the ten numbers": header((10**10,)) + b"\0" * 80,
    "numbers beyond all bounds": header((2**63, 2**63, 4)),
    "negative": header((-1, 4)) + b"\0" * 16,
    "objects": header((2,), "|O") + b"\0" * 16,
    "a large element": header((2,), [("a", "<f8", (2**31,))]),
    "an expression": b"\x93NUMPY\x01\0" + struct.pack("<H", 9) + b"exit(3)  ",
    "nested": b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000,
    "signs": b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"-" * 8999 + b"1",
    "more than it says": header((2, 2)) + b"\0" * 17,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_the_header_of_an_array_is_compared_with_the_file(store, kind):
    content = HEADERS[kind]
    with pytest.raises(ValueError, match=r"a\.npy: (truncated|has \d+ bytes, its header has)") as caught:
        read_npy_header(io.BytesIO(content), len(content), "a.npy")
    assert "\n" not in str(caught.value)
    (store / "shard-00000.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-00000\.npy: (truncated|has \d+ bytes, its header has)"):
        LatentStore(store)


def test_arrays_are_read_as_numpy_reads_them():
    for array in (
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(3.5),
    ):
        file = io.BytesIO()
        np.save(file, array)
        file.seek(0)
        assert np.array_equal(read_npy(file, len(file.getvalue()), "a"), array)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10**10, 8, 8, 3), "truncated, or not a .npy file: has"),
        ((0, 8, 8, 3), "there are no images in it"),
        ((1, 2**16, 2**16, 1), "truncated, or not a .npy file: has"),
    ],
)
def test_sizes_of_npz_images_are_compared_with_the_file(tmp_path, shape, message):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", header(shape, "|u1") + b"\0" * (0 if 0 in shape else 80))
    with pytest.raises(ValueError, match=message):
        NpzImages(tmp_path / "a.npz")


def test_npz_images_are_read_in_parts_of_a_bounded_size(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pixels)
    monkeypatch.setattr("meanflow.files.npz_images.LARGEST_PART", 100)
    parts = list(NpzImages(tmp_path / "a.npz").batches(256))
    assert [len(part) for part, _ in parts] == [2, 2, 1]
    assert np.array_equal(torch.cat([part for part, _ in parts]).permute(0, 2, 3, 1), pixels)
    monkeypatch.setattr("meanflow.files.npz_images.LARGEST_PART", 40)
    with pytest.raises(ValueError, match="an image of 4 x 4 pixels is too large"):
        NpzImages(tmp_path / "a.npz")


def test_latents_that_are_not_square_are_refused_before_training(tmp_path):
    with LatentStoreWriter(
        tmp_path / "rect",
        kind="latents",
        codec=IdentityCodec(1).config,
        normalization=identity(1),
        resolution=8,
        latent_shape=(1, 8, 16),
        num_classes=10,
    ) as writer:
        writer.append(torch.randn(4, 1, 8, 16), None, torch.arange(4))
    with pytest.raises(ValueError, match=r"rect: latents must be square to train on them, these are 8 x 16"):
        LatentDataModule(tmp_path / "rect", batch_size=2).require_pipeline(None)


def moments(negative: bool = False) -> np.ndarray:
    array = np.random.default_rng(0).random((8, 4, 4), dtype=np.float32)
    array[5, 0, 0] = -0.5 if negative else 0.5
    return array


def edm2_zip(path: Path, labels: object = (0, 1, 2), prefix: str = "", **arguments) -> Path:
    names = [f"{i:05d}/img-mean-std-{i:08d}.npy" for i in range(3)]
    given = None if labels is None else [list(pair) for pair in zip(names, labels, strict=True)]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            file = io.BytesIO()
            np.save(file, moments(**arguments))
            archive.writestr(prefix + name, file.getvalue())
        archive.writestr(f"{prefix}dataset.json", json.dumps({"labels": given}))
    return path


@pytest.mark.parametrize("prefix", ["", "vae-sd/", "./"])
def test_zip_files_of_edm2_are_converted(tmp_path, prefix):
    line = convert_to_store(
        edm2_zip(tmp_path / "sd.zip", prefix=prefix), tmp_path / "out", num_classes=3, dtype="float32"
    )
    assert line == f"{tmp_path / 'out'}: 3 latents of DMFLatents, 3 classes, float32"
    mean, std, y = LatentStore(tmp_path / "out").gather(np.arange(3))
    assert np.array_equal(torch.cat([mean, std], dim=1)[1], moments())
    assert y.tolist() == [0, 1, 2]


def test_a_zip_file_of_latents_without_labels_is_one_class(tmp_path):
    line = convert_to_store(edm2_zip(tmp_path / "sd.zip", labels=None), tmp_path / "out")
    note = "without labels: dataset.json has no labels; all 3 samples are one class"
    assert line == f"{tmp_path / 'out'}: 3 latents of DMFLatents, 1 classes, float16; {note}"
    manifest = LatentStore(tmp_path / "out").manifest
    assert (manifest.num_classes, manifest.notes) == (1, (note,))
    assert f"note           {note}" in describe_store(tmp_path / "out")


@pytest.mark.parametrize("labels", [(0, 1, 1.5), (0, 1, 2.0), (0, 1, True), (0, 1, [0, 1]), (0, 1, -1), (0, 1, 10**30)])
def test_labels_that_are_no_integers_are_refused_where_they_are_converted(tmp_path, labels):
    with pytest.raises(ValueError, match=r"dataset\.json: labels must be a list of \[file, integer\]"):
        convert_to_store(edm2_zip(tmp_path / "sd.zip", labels=labels), tmp_path / "out")


def test_negative_standard_deviations_are_refused_where_they_are_converted(tmp_path):
    with pytest.raises(ValueError, match=r"00000000\.npy: standard deviations must not be negative, got -0\.5"):
        convert_to_store(edm2_zip(tmp_path / "sd.zip", negative=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": torch.tensor(1.5)}, "the label must be an integer, got 1.5"),
        ({"label": torch.tensor(float("nan"))}, "the label must be an integer, got nan"),
        ({"label": torch.tensor(float("inf"))}, "the label must be an integer, got inf"),
        ({"label": torch.tensor([1, 2])}, r"the label must be an integer, got \[1, 2\]"),
        ({"image": torch.full((8, 4, 4), -1.0)}, "standard deviations must not be negative, got -1"),
        ({"image": torch.full((8, 4, 4), torch.nan)}, "the latent is not finite"),
        ({"image": torch.zeros(1).expand(8, 30_000, 30_000)}, r"must hold float32 \(8, 30000, 30000\) in full"),
    ],
)
def test_files_of_imf_are_checked_where_they_are_converted(tmp_path, change, message):
    (tmp_path / "imf").mkdir()
    content = {"image": torch.ones(8, 4, 4), "label": torch.tensor(1)}
    torch.save(content | change, tmp_path / "imf" / "0.pt")
    with pytest.raises(ValueError, match=rf"0\.pt:? {message}"):
        open_official(tmp_path / "imf")[0]
    torch.save(content | {"label": torch.tensor(2.0)}, tmp_path / "imf" / "0.pt")
    assert open_official(tmp_path / "imf")[0][1] == 2
