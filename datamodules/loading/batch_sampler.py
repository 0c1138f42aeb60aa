"""The order in which a run sees its samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from meanflow import random_streams


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of indices as a function of (seed, number of the batch since the start of the run).

    Epoch k is a permutation of the samples that depends on (seed, k) alone, cut into batches; the last, incomplete
    batch is dropped. Ranks divide each global batch into contiguous parts, so that the global batches do not depend on
    how many ranks there are.

    Iterating yields as many batches as an epoch has, beginning with batch ``start``, and goes on into the next epoch if
    that is not the first batch of one. (Lightning counts for itself, and stops asking where its epoch ends.)

    Args:
        num_samples: Samples in the data set, N.
        batch_size: Samples in the batch of one rank.
        seed: Seed of the run.
        horizontal_flip: Replace index i by i + N, the flipped copy of the sample, with probability one half.
        rank: This process, in ``[0, world_size)``.
        world_size: Number of processes.
        shuffle: Without it, every epoch is in the order of the data set.

    Raises:
        ValueError: If a batch of all ranks has more samples than there are, or an argument is out of range.
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
        """Let the next iteration begin with this batch, counted from 0 since the start of the run."""
        if batch < 0:
            raise ValueError(f"batch must be at least 0, got {batch}")
        self.start = batch

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, counted from 0."""
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
