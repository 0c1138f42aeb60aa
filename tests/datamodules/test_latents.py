from types import SimpleNamespace

import pytest
import torch

from datamodules.digits import DigitsDataModule
from datamodules.latents import LatentDataModule
from meanflow.codecs import IdentityCodec
from meanflow.normalization import IMF, SCALE_0_18215
from tests.datamodules.small_store import write_moments


def test_batches_of_the_right_kind(tmp_path):
    write_moments(tmp_path / "store")
    module = LatentDataModule(tmp_path / "store", batch_size=4, normalization=SCALE_0_18215)
    module.prepare_data()
    module.setup("fit")
    assert (module.num_samples, module.num_classes) == (10, 3)
    assert module.labels.dtype == torch.int64
    loader = module.train_dataloader()
    assert len(loader) == 2
    batch = next(iter(loader))
    assert batch.mean.shape == batch.std.shape == (4, 4, 4, 4)
    assert batch.y.shape == (4,)


def test_a_store_of_another_normalization_is_refused(tmp_path):
    write_moments(tmp_path / "store")
    module = LatentDataModule(tmp_path / "store", batch_size=4, normalization=IMF)
    with pytest.raises(ValueError, match="the store is normalised for scale_0_18215, the network expects imf"):
        module.setup("fit")


def test_the_global_batch_is_divided_by_the_devices(tmp_path):
    write_moments(tmp_path / "store")
    module = LatentDataModule(tmp_path / "store", batch_size=4)
    module.trainer = SimpleNamespace(global_rank=1, world_size=2, overfit_batches=0)
    assert module.train_dataloader().batch_sampler.batch_size == 2
    module.trainer.world_size = 3
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 devices, got 4"):
        module.train_dataloader()


def test_digits_are_written_once_and_are_exact(tmp_path):
    from sklearn.datasets import load_digits

    module = DigitsDataModule(tmp_path / "digits", batch_size=1797)
    assert module.num_classes == 10
    module.store.verify()
    manifest = tmp_path / "digits" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    module.prepare_data()
    assert manifest.stat().st_mtime_ns == written

    (batch,) = module.train_dataloader()
    assert batch.mean.shape == (1797, 1, 8, 8)
    assert batch.std is None
    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()
    (order,) = module.train_dataloader().batch_sampler
    assert torch.equal((batch.mean[:, 0] + 1) * 8, grey[order])
    assert torch.equal(module.labels, torch.from_numpy(digits.target))
    assert isinstance(module.store.codec(), IdentityCodec)


def test_digits_do_not_take_the_place_of_another_store(tmp_path):
    write_moments(tmp_path / "store")
    with pytest.raises(FileExistsError, match="holds a store of something else than the digits"):
        DigitsDataModule(tmp_path / "store").prepare_data()


def test_a_store_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: not a latent store"):
        LatentDataModule(tmp_path / "nowhere", batch_size=4).setup("fit")
