"""The order in which a run sees its samples. Not to be confused with ``meanflow.samplers``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from meanflow import random_streams


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of indices, a function of the seed and the number of the batch since the start of the run.

    Epoch k is a permutation of the samples that depends on the seed and k only. It is cut into batches; the last,
    incomplete batch is dropped. Ranks divide every global batch into contiguous parts. The global batches therefore do
    not depend on the number of ranks.

    An iteration yields as many batches as an epoch has, from batch ``start`` on. If ``start`` is not the first batch of
    an epoch, the iteration runs on into the next epoch. (Lightning counts batches itself, and stops at the end
    of an epoch.)

    Args:
        num_samples: Number of samples in the data set, N.
        batch_size: Samples in the batch of one rank.
        seed: Seed of the run.
        horizontal_flip: Replace index i by i + N, the flipped copy of the sample, with probability one half.
        rank: Number of this process, in ``[0, world_size)``.
        world_size: Number of processes.
        shuffle: Whether epochs are permuted; otherwise every epoch has the order of the data set.

    Raises:
        ValueError: If the global batch has more samples than the data set, or an argument is out of range.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        horizontal_flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
        if batch_size * world_size > num_samples:
            raise ValueError(
                f"batch_size must be at most the {num_samples} samples of the data set over all ranks, "
                f"got {batch_size} on each of {world_size}"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.horizontal_flip = horizontal_flip
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.start = 0

    def __len__(self) -> int:
        return self.num_samples // (self.batch_size * self.world_size)

    def set_start(self, batch: int) -> None:
        """Start the next iteration at this batch, counted from 0 at the start of the run."""
        if batch < 0:
            raise ValueError(f"batch must be at least 0, got {batch}")
        self.start = batch

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at this epoch, counted from 0."""
        self.set_start(epoch * len(self))

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first = divmod(self.start, len(self))
        yield from self._batches(epoch, range(first, len(self)))
        if first:
            yield from self._batches(epoch + 1, range(first))

    def _batches(self, epoch: int, batches: range) -> Iterator[list[int]]:
        order = self._order(epoch)
        for batch in batches:
            begin = (batch * self.world_size + self.rank) * self.batch_size
            yield order[begin : begin + self.batch_size].tolist()

    def _order(self, epoch: int) -> np.ndarray:
        order = np.arange(self.num_samples)
        if self.shuffle:
            generator = random_streams.generator(self.seed, epoch, purpose=random_streams.DATA_ORDER)
            order = torch.randperm(self.num_samples, generator=generator).numpy()
        if self.horizontal_flip:
            generator = random_streams.generator(self.seed, epoch, purpose=random_streams.DATA_FLIP)
            order = order + self.num_samples * torch.randint(2, (self.num_samples,), generator=generator).numpy()
        return order
