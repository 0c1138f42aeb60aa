import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.loading.dataset import LatentDataset
from datamodules.store.reader import LatentStore
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs.normalization import IMF, SCALE_0_18215, identity
from tests.datamodules.small_store import moments, write_counter, write_moments


@pytest.mark.parametrize("normalization", [SCALE_0_18215, IMF])
def test_moments_are_normalized_and_flipped_by_index(tmp_path, normalization):
    mean, std, y = moments(10)
    dataset = LatentDataset(write_moments(tmp_path / "store", normalization=normalization))
    assert len(dataset) == 20
    batch = dataset.__getitems__([3, 13, 0])
    assert torch.equal(batch.mean[0], normalization.normalize(mean[3]))
    assert torch.equal(batch.mean[1], normalization.normalize(mean[3]).flip(-1))
    assert torch.equal(batch.std[1], normalization.normalize_std(std[3]).flip(-1))
    assert batch.std[2].dtype == torch.float32
    assert batch.y.tolist() == y[[3, 3, 0]].tolist()
    assert batch.image is None
    assert torch.equal(dataset[13].mean[0], batch.mean[1])


@pytest.fixture
def with_images(tmp_path) -> LatentStore:
    """Three images, left half of gray level i, right half 100, with the store beside them."""
    (tmp_path / "images").mkdir()
    names = []
    for i in range(3):
        pixels = np.full((4, 4, 3), 100, dtype=np.uint8)
        pixels[:, :2] = i
        names.append(f"{i}.png")
        Image.fromarray(pixels).save(tmp_path / "images" / names[-1])
    with LatentStoreWriter(
        tmp_path / "store",
        kind="latents",
        codec={"name": "identity", "channels": 1},
        normalization=identity(1),
        resolution=4,
        latent_shape=(1, 2, 2),
        num_classes=1,
        image_root="../images",
    ) as writer:
        writer.append(torch.zeros(3, 1, 2, 2), None, torch.zeros(3, dtype=torch.int64), sources=names)
    return LatentStore(tmp_path / "store")


def test_images_come_with_their_latents_and_are_flipped_with_them(with_images):
    with_images.verify()
    image = LatentDataset(with_images, images=True).__getitems__([2, 5]).image
    assert image.shape == (2, 3, 4, 4)
    assert image.dtype == torch.uint8
    assert image[0, 0, 0].tolist() == [2, 2, 100, 100]
    assert image[1, 0, 0].tolist() == [100, 100, 2, 2]


def test_missing_images_are_named(with_images, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FileNotFoundError, match=r"elsewhere/1.png: source image of .* not found; set image_root"):
        LatentDataset(with_images, images=True, image_root=tmp_path / "elsewhere")[1]
    plain = write_counter(tmp_path / "plain", 3)
    with pytest.raises(ValueError, match="image_root must be given"):
        LatentDataset(plain, images=True)
    with pytest.raises(ValueError, match="does not record its source images"):
        LatentDataset(plain, images=True, image_root=tmp_path)
