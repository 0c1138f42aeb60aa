"""A data loader that starts at the batch that the run needs next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from datamodules.loading.batch_sampler import EpochBatchSampler
from datamodules.loading.dataset import LatentDataset
from meanflow.types import LatentBatch

if TYPE_CHECKING:
    from torch.utils.data.dataloader import _BaseDataLoaderIter


class ResumableDataLoader(DataLoader[LatentBatch]):
    """Yields as many batches as an epoch has, from the batch on that the run needs next.

    A loader cannot know how many of its batches were trained on: workers fetch ahead, and a run can stop between
    fetching and training. The trainer knows the number, and its checkpoints hold it. The loader therefore keeps no
    position, and asks for the number at the start of every iteration. A run that is resumed anywhere, any number of
    times, sees the batches of the uninterrupted run.

    Args:
        dataset: The samples; a list of indices gives one batch.
        batch_sampler: The order of the samples.
        num_trained: Returns the number of batches that the run has trained on. Without it, an iteration starts where
            ``batch_sampler.set_start`` or ``batch_sampler.set_epoch`` put it.
        num_workers: Processes that read ahead; 0 reads in this process.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_sampler: EpochBatchSampler,
        num_trained: Callable[[], int] | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=whole_batch,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Each iteration draws a seed for the workers. By default, it would come from the global generator, and the
            # model would see other random numbers.
            generator=torch.Generator(),
        )
        self.epoch_sampler = batch_sampler
        self.num_trained = num_trained

    def __iter__(self) -> _BaseDataLoaderIter:
        if self.num_trained is not None:
            self.epoch_sampler.set_start(self.num_trained())
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trainer counts the batches. Lightning expects this method of a resumable loader."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: ``state_dict`` is empty."""


def whole_batch(batch: Any) -> LatentBatch:  # torch declares a list of samples here
    """Return the batch: the data set has collated it."""
    return batch
