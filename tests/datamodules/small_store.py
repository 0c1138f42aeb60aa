"""A latent store of a few samples whose values show which sample they belong to."""

from pathlib import Path

import torch

from datamodules.store.reader import LatentStore
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs.normalization import SCALE_0_18215, Normalization, identity

CODEC = {"name": "autoencoder_kl", "path": "stabilityai/sd-vae-ft-mse"}


def moments(num_samples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, std and labels; all values of the mean of sample i are i + column / 4."""
    mean = torch.arange(num_samples).float().reshape(-1, 1, 1, 1) + torch.arange(4) / 4
    mean = mean.expand(num_samples, 4, 4, 4).contiguous()
    return mean, mean / 2 + 1, torch.arange(num_samples) % 3


def write_moments(
    path: Path, num_samples: int = 10, batch: int = 4, normalization: Normalization = SCALE_0_18215, **kw
):
    mean, std, y = moments(num_samples)
    arguments = {"resolution": 32, "latent_shape": (4, 4, 4), "num_classes": 3, "shard_size": 3} | kw
    with LatentStoreWriter(path, kind="moments", codec=CODEC, normalization=normalization, **arguments) as writer:
        for i in range(0, num_samples, batch):
            writer.append(mean[i : i + batch], std[i : i + batch], y[i : i + batch])
    return LatentStore(path)


def write_counter(path: Path, num_samples: int) -> LatentStore:
    """Store of latents ``(1, 1, 2)`` that hold (i, -i)."""
    x = torch.arange(num_samples).float().reshape(-1, 1, 1, 1) * torch.tensor([1.0, -1.0])
    with LatentStoreWriter(
        path,
        kind="latents",
        codec={"name": "identity", "channels": 1},
        normalization=identity(1),
        resolution=2,
        latent_shape=(1, 1, 2),
        num_classes=1,
        dtype="float32",
    ) as writer:
        writer.append(x, None, torch.zeros(num_samples, dtype=torch.int64))
    return LatentStore(path)
