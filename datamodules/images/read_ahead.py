"""Worker processes that read images ahead of their use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")


def read_ahead(dataset: Dataset[Item], num_workers: int | None, pin_memory: bool) -> Iterator[Item]:
    """Yield the items of a data set in order while worker processes read the next items.

    The workers start with the first item.

    Args:
        dataset: The data set.
        num_workers: Number of worker processes. ``None`` starts one for each core but one; 0 reads in this process.
        pin_memory: Whether the items go on to a GPU.

    Raises:
        OSError: If a worker process was killed.
    """
    if num_workers is None:
        num_workers = max((os.cpu_count() or 1) - 1, 1)
    loader = iter(DataLoader(dataset, batch_size=None, num_workers=num_workers, pin_memory=pin_memory))
    while True:
        try:
            item = next(loader)
        except StopIteration:
            return
        except RuntimeError as error:
            if not re.match(r"DataLoader worker .* (is killed|exited)", str(error)):
                raise
            reason = str(error).splitlines()[0].rstrip(". ")
            raise OSError(
                f"{reason}; machines that are short of memory kill processes: a smaller num_workers or batch_size helps"
            ) from error
        yield item
