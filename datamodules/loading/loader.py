"""A data loader that knows where in the run it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.loading.batch_sampler import EpochBatchSampler
from datamodules.loading.dataset import LatentDataset
from meanflow.types import LatentBatch


class ResumableDataLoader(DataLoader[LatentBatch]):
    """Yields one epoch's number of batches, beginning with the batch that the run needs next.

    A loader cannot know how many of its batches were trained on: workers fetch ahead, and a run can stop between
    fetching and training. The trainer knows, and its checkpoints carry the number. So the loader keeps no position: it
    asks for it whenever an iteration begins. A run that is resumed anywhere, any number of times, sees the batches of
    the uninterrupted run.

    Args:
        dataset: Answers a list of indices with one batch.
        batch_sampler: The order of the samples.
        num_trained: Returns the number of batches that the run has trained on; without it, iterations begin where
            ``batch_sampler.set_start`` or ``set_epoch`` said.
        num_workers: Processes that read ahead; 0 reads in this one.
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
            # Each iteration draws a seed for the workers; by default from the global generator, which is the model's.
            generator=torch.Generator(),
        )
        self.epoch_sampler = batch_sampler
        self.num_trained = num_trained

    def __iter__(self) -> Any:  # DataLoader's own annotation is a private class
        if self.num_trained is not None:
            self.epoch_sampler.set_start(self.num_trained())
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trainer's counters are the state. To Lightning, the method means: resumable."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Accept what ``state_dict`` returned."""


def whole_batch(batch: Any) -> Any:
    """Collate nothing: the data set returns whole ``LatentBatch``es."""
    return batch
