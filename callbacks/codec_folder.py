"""Export of a trained autoencoder to a folder that a codec loads."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.ema import evaluation_weights
from callbacks.every_n_steps import is_last_step
from callbacks.trainer_parts import data_module, training_module
from datamodules.latents import LatentDataModule
from datamodules.store.reader import Store
from meanflow.codecs import AutoencoderKLCodec, Codec, round_to_uint8
from meanflow.codecs.autoencoder import Autoencoder
from meanflow.codecs.standardize import standardize
from meanflow.metrics.psnr import peak_signal_to_noise_ratio

BATCH_SIZE = 250


class CodecFolder(Callback):
    """Writes the averaged weights in diffusers' format after the last step, and reports their PSNR on test images.

    ``standardize`` scales the latents by their statistics over training images. The folder is written before the last
    checkpoint. If a run is killed between the two, it writes the folder again when it resumes.

    Args:
        dirpath: Folder to write.
        test: Data module of test images, which training does not use.
        num_samples: Number of training images for the statistics, and number of test images to reconstruct.
    """

    def __init__(self, dirpath: str | Path, test: LatentDataModule, num_samples: int = 10_000) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        self.dirpath = Path(dirpath)
        self.test = test
        self.num_samples = num_samples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the test images, so that an error in them shows before training starts."""
        _ = self.test.store

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the folder after the last step."""
        if not (is_last_step(trainer) and trainer.is_global_zero):
            return
        with evaluation_weights(trainer, pl_module):
            network = cast(Autoencoder, copy.deepcopy(training_module(pl_module).network).eval().requires_grad_(False))
        train = data_module(trainer).store
        standardize(network, *latent_statistics(network, image_batches(train, self.num_samples), pl_module.device))
        scratch = self.dirpath.with_name(f".{self.dirpath.name}.partial")
        shutil.rmtree(scratch, ignore_errors=True)
        network.to(torch.device("cpu")).save_pretrained(scratch)
        shutil.rmtree(self.dirpath, ignore_errors=True)
        scratch.rename(self.dirpath)
        codec = AutoencoderKLCodec(str(self.dirpath), BATCH_SIZE)
        psnr = reconstruction_psnr(codec, image_batches(self.test.store, self.num_samples))
        pl_module.log("codec/psnr", psnr, rank_zero_only=True)
        print(f"{self.dirpath}: reconstructs unseen images with a PSNR of {psnr:.2f} dB", flush=True)


def image_batches(store: Store, num_samples: int) -> Iterator[Tensor]:
    """Yield ``num_samples`` evenly spaced images of a store of pixels, or all if there are fewer.

    Batches are ``(B, C, H, W)``, in [-1, 1].
    """
    samples = np.linspace(0, len(store) - 1, min(num_samples, len(store))).round().astype(np.int64)
    for start in range(0, len(samples), BATCH_SIZE):
        yield store.gather(samples[start : start + BATCH_SIZE])[0]


@torch.no_grad()
def latent_statistics(network: Autoencoder, images: Iterator[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation ``(C,)`` of each channel of latents that are drawn from their posteriors."""
    posteriors = [network.encode(batch.to(device)).latent_dist for batch in images]
    first = torch.cat([p.mean.double() for p in posteriors]).mean(dim=(0, 2, 3))
    second = torch.cat([p.mean.double() ** 2 + p.var.double() for p in posteriors]).mean(dim=(0, 2, 3))
    return first, (second - first**2).sqrt()


def reconstruction_psnr(codec: Codec, images: Iterator[Tensor]) -> float:
    """Return the mean peak signal-to-noise ratio, in decibels, of images after encoding, decoding and rounding."""
    ratios = [
        peak_signal_to_noise_ratio(round_to_uint8(codec.decode(codec.encode(batch).mean)), round_to_uint8(batch))
        for batch in images
    ]
    return float(torch.cat(ratios).mean())
