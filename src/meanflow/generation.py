"""Generation of images in a stream, each a function of the seed and of its own index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from meanflow import random_streams
from meanflow.samplers import Sampler
from meanflow.types import Condition, Network


class Denormalization(Protocol):
    """Turns what the network was trained on back into latents of the codec."""

    def denormalize(self, z: Tensor) -> Tensor:
        """Return latents ``(B, C, H, W)``."""
        ...


class Decoder(Protocol):
    """Turns latents into images."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return images ``(B, 1 or 3, H, W)`` in [-1, 1]."""
        ...


def generate(
    network: Network,
    codec: Decoder,
    sampler: Sampler,
    labels: Tensor,
    seed: int,
    *,
    normalization: Denormalization,
    quantize: Callable[[Tensor], Tensor],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: torch.dtype | None = None,
    indices: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """Generate images in batches.

    Sample ``i`` starts from noise that depends on ``(seed, i)`` alone: images do not depend on the batch size or on how
    the indices are divided among ranks (up to the rounding of the network), and the start noise of a sample is the same
    for every sampler and number of steps.

    Args:
        network: Flow or flow map network, in evaluation mode, on ``device``.
        codec: Decoder of the latents, on ``device``.
        sampler: Sampler.
        labels: Class of every sample, int64 ``(N,)``, in [0, num_classes).
        seed: Seed, at least 0.
        normalization: Inverse of the normalisation of the training latents.
        quantize: Turns images in [-1, 1] into uint8.
        batch_size: Number of samples generated at a time, at least 1.
        device: Where to generate.
        precision: Type of the network's matrix products, as in mixed precision; by default that of its weights.
        indices: Which samples to generate, all by default; ``range(rank, N, world_size)`` on one of several ranks.

    Returns:
        Iterator over batches of images, uint8 ``(batch, C, H, W)`` on ``device``, in the order of ``indices``.

    Raises:
        ValueError: At once if an argument is out of range; from the iterator if a sample is not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}")
    labels = labels.cpu()
    outside = ((labels < 0) | (labels >= network.num_classes)).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"labels must be in [0, {network.num_classes}), got {int(labels[first])} for sample {first} "
            f"({len(outside)} of {len(labels)} are outside)"
        )
    indices = range(len(labels)) if indices is None else indices
    if len(indices) and not 0 <= min(indices) <= max(indices) < len(labels):
        raise ValueError(f"indices must be in [0, {len(labels)}), got {min(indices)} to {max(indices)}")

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(indices), batch_size):
            chosen = list(indices[start : start + batch_size])
            e, noise = start_and_injected_noise(network, sampler, seed, chosen)
            cond = Condition(y=labels[chosen].to(device))
            with autocast(device, precision):
                x = sampler(network, e.to(device), cond, None if noise is None else noise.to(device))
            _check_finite(x, chosen)
            with torch.no_grad():
                yield quantize(codec.decode(normalization.denormalize(x.to(e.dtype))))

    return batches()


def autocast(device: torch.device | str, precision: torch.dtype | None) -> torch.autocast:
    """Return the context of mixed precision, or one that does nothing if there is no ``precision``."""
    return torch.autocast(torch.device(device).type, precision, enabled=precision is not None)


def start_and_injected_noise(
    network: Network, sampler: Sampler, seed: int, indices: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Draw what the sampler needs for the samples of these indices, on the CPU.

    Returns:
        Start noise ``(B, C, H, W)`` and injected noise ``(num_noises, B, C, H, W)``, float32; the latter is ``None`` if
        the sampler injects none.
    """
    shape = (network.in_channels, network.input_size, network.input_size)
    samples = []
    for index in indices:
        generator = random_streams.generator(seed, index, purpose=random_streams.SAMPLING)
        # One call each: what torch draws in one large call differs from the start of it drawn alone.
        samples.append(torch.stack([torch.randn(shape, generator=generator) for _ in range(1 + sampler.num_noises)]))
    noises = torch.stack(samples, dim=1)
    return noises[0], noises[1:] if sampler.num_noises else None


def _check_finite(x: Tensor, indices: Sequence[int]) -> None:
    finite = torch.isfinite(x).flatten(1).all(dim=1)
    if not finite.all():
        bad = [indices[i] for i in (~finite).nonzero().flatten().tolist()]
        raise ValueError(f"latents must be finite, those of sample {bad[0]} are not ({len(bad)} in its batch)")
