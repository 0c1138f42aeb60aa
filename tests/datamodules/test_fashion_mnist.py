import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import fashion_mnist
from datamodules.fashion_mnist import FashionMNISTDataModule, read_idx, write_fashion_mnist
from meanflow.codecs import round_to_uint8


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


@pytest.fixture
def idx(tmp_path, monkeypatch) -> Path:
    """A folder like Debian's, with 40 training images of random pixels."""
    monkeypatch.setitem(fashion_mnist.SPLITS, "train", ("train", 40))
    folder = tmp_path / "idx"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    write_idx(folder / "train-images-idx3-ubyte.gz", images)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(40, dtype=np.uint8) % 10)
    return folder


def test_images_are_padded_and_exact(idx, tmp_path):
    module = FashionMNISTDataModule(tmp_path / "store", batch_size=8, source=idx)
    assert (module.num_samples, module.num_classes) == (40, 10)
    pixels = round_to_uint8(module.latents(range(40)))
    images = read_idx(idx / "train-images-idx3-ubyte.gz", (40, 28, 28))
    assert torch.equal(pixels[:, 0, 2:30, 2:30], torch.from_numpy(images.copy()))
    assert (pixels.sum(dim=(1, 2, 3)) == torch.from_numpy(images.sum(axis=(1, 2), dtype=np.int64))).all()
    assert module.labels.tolist() == [i % 10 for i in range(40)]
    assert module.store.configuration.class_names[9] == "ankle boot"
    written = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
    write_fashion_mnist(tmp_path / "store", source=idx)
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == written


def test_what_is_wrong_is_one_line(idx, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\], got 'val'"):
        FashionMNISTDataModule(tmp_path / "store", split="val")
    labels = idx / "train-labels-idx1-ubyte.gz"
    content = labels.read_bytes()
    for damaged, message in (
        (content[:-9], r"train-labels-idx1-ubyte\.gz: truncated, or not a gzip file"),
        (b"<html>", r"train-labels-idx1-ubyte\.gz: truncated, or not a gzip file"),
        (gzip.compress(b"12"), r"train-labels-idx1-ubyte\.gz: must be an IDX file of 40 bytes"),
    ):
        labels.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            write_fashion_mnist(tmp_path / "store", source=idx)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        write_fashion_mnist(tmp_path / "store", source=idx)
    assert not (tmp_path / "store").exists()

    def unreachable(*arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", unreachable)
    message = "Debian package dataset-fashion-mnist.*cannot be downloaded: no route to host"
    with pytest.raises(FileNotFoundError, match=message):
        write_fashion_mnist(tmp_path / "store", source=tmp_path / "nowhere")


@pytest.mark.skipif(
    not os.path.isdir(fashion_mnist.DEBIAN_FOLDER), reason="Debian's package dataset-fashion-mnist is not installed"
)
def test_the_real_images(tmp_path):
    assert write_fashion_mnist(tmp_path / "store", "test").endswith("10000 images, 32 x 32 pixels, 10 classes")
    module = FashionMNISTDataModule(tmp_path / "store", split="test")
    assert torch.bincount(module.labels).tolist() == [1000] * 10
    assert abs(module.latents(range(0, 10_000, 50)).mean() + 0.56) < 0.02  # mostly background
    with pytest.raises(FileExistsError, match=r"holds a store of something else than Fashion-MNIST \(train\)"):
        write_fashion_mnist(tmp_path / "store", "train")
