"""Several stores as one."""

import pickle

import numpy as np
import pytest
import torch

from datamodules import LatentDataModule, open_store
from datamodules.loading.dataset import LatentDataset
from datamodules.store.reader import LatentStore
from datamodules.store.verify import verify_store
from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import IMF
from tests import images
from tests.datamodules.small_store import moments, write_moments


@pytest.fixture
def stores(tmp_path) -> list[str]:
    write_moments(tmp_path / "a", 10)
    write_moments(tmp_path / "b", 4)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_samples_follow_one_another(stores):
    store = open_store(stores)
    assert len(store) == 14
    mean, std, y = store.gather(np.array([13, 0, 10, 9]))
    expected = moments(10)
    for found, values in zip((mean, std, y), expected, strict=True):
        assert torch.equal(found, values[[3, 0, 0, 9]])
    assert torch.equal(pickle.loads(pickle.dumps(store)).gather(np.array([13]))[0], mean[:1])
    with pytest.raises(IndexError, match=r"indices must lie in \[0, 14\), got 14 to 14"):
        store.gather(np.array([14]))


def test_a_data_module_reads_them_in_one_epoch(stores):
    module = LatentDataModule(stores, batch_size=7)
    values = [value for batch in module.train_dataloader() for value in (batch.mean[:, 0, 0, 0] / 0.18215).tolist()]
    assert sorted(round(value) for value in values) == sorted([*range(10), *range(4)])
    assert "14 samples of 3 classes" in verify_store(stores)


def test_only_equal_configurations_go_together(stores, tmp_path):
    write_moments(tmp_path / "imf", normalization=IMF)
    with pytest.raises(ValueError, match=r"imf: holds a store whose normalization is .*, .*/a has .*0\.18215"):
        open_store([stores[0], str(tmp_path / "imf")])
    write_moments(tmp_path / "named", class_names=["x", "y", "z"])
    with pytest.raises(ValueError, match=r"named: holds a store whose class_names is \['x', 'y', 'z'\]"):
        open_store([stores[0], str(tmp_path / "named")])
    with pytest.raises(ValueError, match="store must name at least one folder"):
        open_store([])
    assert isinstance(open_store(stores[:1]), LatentStore)
    with pytest.raises(FileNotFoundError, match="nowhere: not a latent store"):
        open_store([stores[0], str(tmp_path / "nowhere")])


def test_each_part_knows_its_images(tmp_path):
    from datamodules.preparation import prepare_latents

    for name, number in (("a", 3), ("b", 2)):
        images.write_class_folders(tmp_path / f"images_{name}", number, num_classes=2)
        source, out = tmp_path / f"images_{name}", tmp_path / name
        prepare_latents(source, out, IdentityCodec(3), 8, num_workers=0, device="cpu")
    dataset = LatentDataset(open_store([str(tmp_path / "a"), str(tmp_path / "b")]), images=True)
    batch = dataset.__getitems__([4, 0, 3, 1])
    torch.testing.assert_close(batch.image / 127.5 - 1, batch.mean, rtol=0, atol=1e-3)
    (tmp_path / "images_c").mkdir()
    write_moments(tmp_path / "plain")
    with pytest.raises(ValueError, match="image_root must be given"):
        LatentDataset(open_store([str(tmp_path / "plain")]), images=True)
