import re

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.store.describe import channel_statistics, describe_store
from datamodules.store.reader import LatentStore
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs import round_to_uint8
from meanflow.codecs.normalization import IMF
from tests import images, tiny


def write_gaussian(path, vae, num_samples=300) -> LatentStore:
    """Posteriors whose normalized draws have mean ``k / 4`` in channel k and standard deviation 5 / 4."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor(IMF.scale).reshape(4, 1, 1)
    normalized = 0.75 * torch.randn(num_samples, 4, 8, 8, generator=generator) + torch.arange(4.0).reshape(4, 1, 1) / 4
    with LatentStoreWriter(
        path,
        kind="moments",
        codec={"name": "autoencoder_kl", "path": str(vae)},
        normalization=IMF,
        resolution=16,
        latent_shape=(4, 8, 8),
        num_classes=3,
        class_names=["cat", "dog", "owl"],
        dtype="float32",
    ) as writer:
        std = (1 / scale).expand_as(normalized)
        writer.append(IMF.denormalize(normalized), std, torch.arange(num_samples) % 2)
    return LatentStore(path)


def test_statistics_are_those_of_the_draws(tmp_path):
    store = write_gaussian(tmp_path / "store", "nowhere")
    mean, std = channel_statistics(store, np.arange(len(store)))
    torch.testing.assert_close(mean, torch.arange(4).double() / 4, rtol=0, atol=0.02)
    torch.testing.assert_close(std, torch.full((4,), 1.25).double(), rtol=0, atol=0.02)


def test_a_description_has_counts_statistics_and_a_picture(tmp_path):
    vae = images.write_autoencoder(tmp_path / "vae")
    write_gaussian(tmp_path / "store", vae)
    text = describe_store(tmp_path / "store", tmp_path / "new" / "picture.png", num_pictured=9)
    assert "samples        300\n" in text
    assert "classes        3, 0 to 150 samples each\n" in text
    assert "0 cat, 1 dog, 2 owl" in text
    assert "normalization  imf\n" in text
    assert re.search(r"std +1\.2\d\d +1\.2\d\d +1\.2\d\d +1\.2\d\d\n", text)
    with Image.open(tmp_path / "new" / "picture.png") as picture:
        assert min(picture.size) >= 3 * 64


def test_a_picture_of_pixels_shows_the_pixels(tmp_path):
    path = tiny.write_store(tmp_path / "store", 4)
    text = describe_store([str(path)], tmp_path / "drawn.png")
    assert text.endswith("drawn.png: 4 samples, decoded")
    drawn = np.asarray(Image.open(tmp_path / "drawn.png"))
    tile = round_to_uint8(LatentStore(path).gather(np.array([0]))[0])[0, 0].numpy()
    assert (drawn[8:64:16, 8:64:16, 0] == tile).all()  # each pixel is 16 wide
    assert "decoded" not in describe_store(path)


def test_bad_values_are_named(tmp_path):
    store = write_gaussian(tmp_path / "store", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        describe_store(store.path, num_samples=0)
    with pytest.raises(FileNotFoundError, match=r"no usable weights at path=.*nowhere"):
        describe_store(store.path, tmp_path / "picture.png")
