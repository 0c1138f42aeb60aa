from types import SimpleNamespace

import pytest
import torch

from datamodules.digits import DigitsDataModule
from datamodules.latents import LatentDataModule
from meanflow.codecs import AutoencoderKLCodec, IdentityCodec
from meanflow.codecs.normalization import IMF, SCALE_0_18215
from meanflow.models import SiT
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowEuler
from tests.datamodules.small_store import write_counter, write_moments


def test_batches_of_the_right_kind(tmp_path):
    write_moments(tmp_path / "store")
    module = LatentDataModule(tmp_path / "store", batch_size=4)
    module.prepare_data()
    module.setup("fit")
    assert (module.num_samples, module.num_classes) == (10, 3)
    assert module.labels.dtype == torch.int64
    loader = module.train_dataloader()
    assert len(loader) == 2
    batch = next(iter(loader))
    assert batch.mean.shape == batch.std.shape == (4, 4, 4, 4)
    assert batch.y.shape == (4,)


def pipeline(normalization=SCALE_0_18215, codec=None, **network):
    """A model for the store of ``write_moments``, changed by the arguments."""
    sizes = {"input_size": 4, "in_channels": 4, "num_classes": 3} | network
    return Pipeline(
        SiT(hidden_size=8, depth=1, num_heads=2, **sizes),
        codec or AutoencoderKLCodec("stabilityai/sd-vae-ft-mse"),
        normalization,
        FlowEuler(1),
    )


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"num_classes": 10}, r"network\.num_classes must be 3 for the store .*, got 10"),
        ({"input_size": 8}, r"network\.input_size must be 4 for the store .*, got 8"),
        ({"normalization": IMF}, "the store is normalized for scale_0_18215, the network expects imf"),
        ({"codec": IdentityCodec(4)}, r"encoded with the codec .*autoencoder_kl.*, the model decodes with .*identity"),
    ],
)
def test_a_model_for_other_latents_is_refused(tmp_path, differences, message):
    write_moments(tmp_path / "store")
    module = LatentDataModule(tmp_path / "store", batch_size=4)
    module.require_pipeline(pipeline())
    with pytest.raises(ValueError, match=message):
        module.require_pipeline(pipeline(**differences))


def test_the_same_codec_at_another_path_is_a_warning(tmp_path):
    write_moments(tmp_path / "store")
    module = LatentDataModule(tmp_path / "store", batch_size=4)
    with pytest.warns(UserWarning, match=r"sd-vae-ft-mse.*, the model decodes with .*sd-vae-ft-ema"):
        module.require_pipeline(pipeline(codec=AutoencoderKLCodec("stabilityai/sd-vae-ft-ema")))


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
    gray = torch.from_numpy(digits.images).float()
    (order,) = module.train_dataloader().batch_sampler
    assert torch.equal((batch.mean[:, 0] + 1) * 8, gray[order])
    assert torch.equal(module.labels, torch.from_numpy(digits.target))
    assert isinstance(module.store.codec(), IdentityCodec)


def test_digits_do_not_take_the_place_of_another_store(tmp_path):
    write_moments(tmp_path / "store")
    with pytest.raises(FileExistsError, match="holds a store of something else than the digits"):
        DigitsDataModule(tmp_path / "store").prepare_data()


def test_a_store_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: not a latent store"):
        LatentDataModule(tmp_path / "nowhere", batch_size=4).setup("fit")


def test_a_flipped_bit_is_found_when_a_small_store_is_opened(tmp_path):
    write_counter(tmp_path / "store", 6)
    shard = next((tmp_path / "store").glob("*shard*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=shard.name):
        LatentDataModule(tmp_path / "store", batch_size=2).setup()
