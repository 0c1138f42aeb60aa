"""What a latent store looks like: counts, statistics and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.store.reader import Latents, open_store
from meanflow import random_streams
from meanflow.codecs import round_to_uint8
from meanflow.display.image_grid import image_grid

# Samples that are read together.
BLOCK = 1024


class ChannelStatistics(NamedTuple):
    """Statistics of normalised latents, which should be near 0 and 1: networks are made for that.

    Attributes:
        mean: Mean of each channel, float64 ``(C,)``.
        std: Standard deviation of each channel, float64 ``(C,)``.
    """

    mean: Tensor
    std: Tensor


def channel_statistics(store: Latents, samples: np.ndarray) -> ChannelStatistics:
    """Return mean and standard deviation of the latents of some samples, as a network sees them.

    Of posteriors, what is drawn from them: the mean of ``mean`` and of ``mean^2 + std^2``.
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
    """Describe a store, or several as one, and draw some of its samples.

    Args:
        path: Folder of the store, or several.
        picture: PNG file to write, with samples that the store's codec decodes; ``None`` for none.
        num_samples: Samples that the statistics are taken over, drawn at random from larger stores.
        num_pictured: Samples in the picture.
        seed: Seed of these choices.
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
        lines.append(_draw(store, np.sort(order[:num_pictured]), Path(picture), device))
    return "\n".join(lines)


def _counts(store: Latents) -> list[str]:
    configuration = store.configuration
    per_class = torch.bincount(store.labels, minlength=configuration.num_classes)
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
        f"classes        {configuration.num_classes}, {int(per_class.min())} to {int(per_class.max())} samples each",
    ]
    if names := configuration.class_names:
        shown = range(len(names)) if len(names) <= 10 else [0, 1, 2, len(names) - 1]
        lines.append("               " + ", ".join(f"{label} {names[label]}" for label in shown))
    return lines


def _statistics(store: Latents, samples: np.ndarray) -> list[str]:
    mean, std = channel_statistics(store, samples)
    return [
        f"normalised     over {len(samples)} samples, per channel; networks expect about 0 and 1",
        f"  mean         {'  '.join(f'{value: .3f}' for value in mean.tolist())}",
        f"  std          {'  '.join(f'{value: .3f}' for value in std.tolist())}",
    ]


def _draw(store: Latents, samples: np.ndarray, picture: Path, device: str) -> str:
    mean, _, _ = store.gather(samples)
    images = round_to_uint8(store.codec().decode(mean.to(device)))
    picture.parent.mkdir(parents=True, exist_ok=True)
    image_grid(images, num_columns=max(1, round(len(samples) ** 0.5))).save(picture)
    return f"picture        {picture}: {len(samples)} samples, decoded"
