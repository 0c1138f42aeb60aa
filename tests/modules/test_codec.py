"""Training of an autoencoder through train.py's parts, in seconds."""

from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL

from callbacks import EMA, CodecFolder, LastCheckpoint
from datamodules import LatentDataModule
from meanflow.codecs import AutoencoderKLCodec
from meanflow.modules import CodecModule
from meanflow.objectives import Reconstruction
from tests import tiny
from tests.datamodules.small_store import write_moments


def module(**changes) -> CodecModule:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "out_channels": 1, "block_out_channels": (4,), "norm_num_groups": 2} | changes
    return CodecModule(
        network=AutoencoderKL(**arguments), objective=Reconstruction(), optimizer=partial(torch.optim.AdamW, lr=1e-2)
    )


def train(store, path, max_steps=6, resume=None, **changes):
    """Train with the callbacks of the experiment; return the module."""
    data = LatentDataModule(store, batch_size=8)
    callbacks = [EMA(0.5), CodecFolder(path / "codec", data, 24), LastCheckpoint(path / "checkpoints", 3)]
    trainer = tiny.trainer(path, max_steps=max_steps, callbacks=callbacks, enable_checkpointing=True)
    trained = module(**changes)
    trained.require_data(data)
    trainer.fit(trained, datamodule=data, ckpt_path=resume, weights_only=True)
    return trained


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_training_writes_a_codec_whose_latents_are_standardized(tmp_path, store, capsys):
    trained = train(store, tmp_path)
    assert "reconstructs unseen images with a PSNR of" in capsys.readouterr().out
    codec = AutoencoderKLCodec(str(tmp_path / "codec"))
    images = LatentDataModule(store, batch_size=8).latents(range(24))
    mean, std = codec.encode(images)
    torch.testing.assert_close(mean.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close((mean**2 + std**2).mean(dim=(0, 2, 3)), torch.ones(4), rtol=1e-4, atol=0)
    # The module ends with the averaged weights, and those are what was written.
    plain = trained.network.eval()
    expected = plain.decode(plain.encode(images).latent_dist.mean).sample
    torch.testing.assert_close(codec.decode(mean), expected, rtol=1e-3, atol=1e-4)

    last = tmp_path / "checkpoints" / "last.ckpt"
    train(store, tmp_path, max_steps=8, resume=last)
    with pytest.raises(ValueError, match="the checkpoint to resume is of another network"):
        train(store, tmp_path, max_steps=9, resume=last, latent_channels=2)


def test_data_of_another_kind_are_refused(tmp_path, store):
    write_moments(tmp_path / "moments")
    with pytest.raises(ValueError, match="an autoencoder trains on pixels; the store holds latents of"):
        module().require_data(LatentDataModule(tmp_path / "moments", batch_size=2))
    with pytest.raises(ValueError, match=r"network\.in_channels must be the 1 channels of the images, got 3"):
        module(in_channels=3).require_data(LatentDataModule(store, batch_size=2))
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        CodecFolder(tmp_path, LatentDataModule(store, batch_size=2), 0)
