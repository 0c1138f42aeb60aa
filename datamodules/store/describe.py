"""Counts, statistics and a picture of a latent store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.store.reader import Store, open_store
from meanflow import random_streams
from meanflow.codecs import round_to_uint8
from meanflow.display.image_grid import image_grid

# Samples that are read at once.
BLOCK = 1024


class ChannelStatistics(NamedTuple):
    """Statistics of normalized latents. Networks expect a mean near 0 and a standard deviation near 1.

    Attributes:
        mean: Mean of each channel, float64 ``(C,)``.
        std: Standard deviation of each channel, float64 ``(C,)``.
    """

    mean: Tensor
    std: Tensor


def channel_statistics(store: Store, samples: np.ndarray) -> ChannelStatistics:
    """Return mean and standard deviation of the normalized latents of some samples.

    If the store holds posteriors, the statistics are of latents drawn from them: the first moment is the average of
    ``mean``, the second moment the average of ``mean^2 + std^2``.
    """
    normalization = store.configuration.normalization
    first = torch.zeros(store.configuration.latent_shape[0], dtype=torch.float64)
    second = torch.zeros_like(first)
    for start in range(0, len(samples), BLOCK):
        mean, std, _ = store.gather(np.sort(samples[start : start + BLOCK]))
        mean = normalization.normalize(mean.double())
        square = mean**2 if std is None else mean**2 + normalization.normalize_std(std.double()) ** 2
        first += mean.mean(dim=(2, 3)).sum(dim=0)
        second += square.mean(dim=(2, 3)).sum(dim=0)
    first, second = first / len(samples), second / len(samples)
    return ChannelStatistics(first, (second - first**2).clamp(min=0).sqrt())


def describe_store(
    path: str | Path | Sequence[str],
    picture: str | Path | None = None,
    num_samples: int = 10_000,
    num_pictured: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """Describe a store, or several stores as one, and picture some of the samples.

    Args:
        path: Folder of the store, or several folders.
        picture: PNG file that shows samples, decoded by the codec of the store; ``None`` writes no picture.
        num_samples: Number of samples that the statistics are taken over, chosen at random from a larger store.
        num_pictured: Number of samples in the picture, chosen at random.
        seed: Seed of the random choices.
        device: Where to decode.

    Returns:
        The description, several lines.

    Raises:
        FileNotFoundError: If a store or the weights of its codec do not exist.
        ValueError: If a store is damaged, or a number is out of range.
    """
    for key, value in (("num_samples", num_samples), ("num_pictured", num_pictured)):
        if value < 1:
            raise ValueError(f"{key} must be at least 1, got {value}")
    store = open_store(path)
    order = torch.randperm(len(store), generator=random_streams.generator(seed, purpose=random_streams.CHOICE)).numpy()
    lines = [*_counts(store), *_statistics(store, order[:num_samples])]
    if picture is not None:
        lines.append(_picture(store, np.sort(order[:num_pictured]), Path(picture), device))
    return "\n".join(lines)


def _counts(store: Store) -> list[str]:
    configuration = store.configuration
    _, counts = torch.unique(store.labels, return_counts=True)  # the number of classes can be any number
    least = int(counts.min()) if len(counts) == configuration.num_classes else 0
    bad = sum(len(part.manifest.bad_images) for part in store.parts)
    shape = " x ".join(map(str, configuration.latent_shape))
    lines = [
        f"store          {store.name}",
        f"samples        {len(store)}"
        + (", with flipped copies" if store.flipped_copies else "")
        + (f"; {bad} bad images left out" if bad else ""),
        f"latents        {configuration.kind} {shape} {configuration.dtype}, "
        f"{store.num_bytes / 1e6:.1f} MB, of {configuration.resolution} x {configuration.resolution} pixels",
        f"codec          {', '.join(f'{key} {value}' for key, value in configuration.codec.items())}",
        f"normalization  {configuration.normalization}",
        f"classes        {configuration.num_classes}, {least} to {int(counts.max())} samples each",
        *(f"note           {note}" for part in store.parts for note in part.manifest.notes),
    ]
    if names := configuration.class_names:
        shown = range(len(names)) if len(names) <= 10 else [0, 1, 2, len(names) - 1]
        lines.append("               " + ", ".join(f"{label} {names[label]}" for label in shown))
    return lines


def _statistics(store: Store, samples: np.ndarray) -> list[str]:
    mean, std = channel_statistics(store, samples)
    return [
        f"normalized     over {len(samples)} samples, per channel; networks expect about 0 and 1",
        f"  mean         {'  '.join(f'{value: .3f}' for value in mean.tolist())}",
        f"  std          {'  '.join(f'{value: .3f}' for value in std.tolist())}",
    ]


def _picture(store: Store, samples: np.ndarray, picture: Path, device: str) -> str:
    mean, _, _ = store.gather(samples)
    images = round_to_uint8(store.codec().decode(mean.to(device)))
    picture.parent.mkdir(parents=True, exist_ok=True)
    image_grid(images, num_columns=max(1, round(len(samples) ** 0.5))).save(picture)
    return f"picture        {picture}: {len(samples)} samples, decoded"
