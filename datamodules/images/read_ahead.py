"""Worker processes that read images ahead of their use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")


def read_ahead(dataset: Dataset[Item], num_workers: int | None, pin_memory: bool) -> Iterator[Item]:
    """Yield the items of a data set in order while worker processes read the next items.

    Args:
        dataset: The data set.
        num_workers: Number of worker processes. ``None`` starts one for each core but one; 0 reads in this process.
        pin_memory: Whether the items go on to a GPU.
    """
    if num_workers is None:
        num_workers = max((os.cpu_count() or 1) - 1, 1)
    return iter(DataLoader(dataset, batch_size=None, num_workers=num_workers, pin_memory=pin_memory))
