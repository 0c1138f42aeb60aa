"""A latent store as a data set that returns whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.images.source_images import SourceImages
from datamodules.store.reader import Store
from meanflow.types import LatentBatch


class LatentDataset(Dataset[LatentBatch]):
    """Normalized moments of a latent store. Nothing here is random.

    The store has N samples. Index ``i + N`` is the horizontally flipped copy of sample i: the latent of the flipped
    image if the store holds flipped copies, else the flipped latent, which is nearly the same. The batch sampler
    chooses between the two indices.

    Args:
        store: The store, or several stores as one.
        images: Also return the source images, center-cropped to the resolution of the store.
        image_root: Folder, zip file or store that source paths are relative to; by default the one in the manifest.

    Raises:
        FileNotFoundError: If ``images`` is true and ``image_root`` does not exist.
        ValueError: If ``images`` is true and the store does not record the paths of its source images.
    """

    def __init__(self, store: Store, images: bool = False, image_root: str | Path | None = None) -> None:
        self.store = store
        self.images = SourceImages(store, image_root) if images else None

    def __len__(self) -> int:
        return 2 * len(self.store)

    def __getitem__(self, index: int) -> LatentBatch:
        """Return one sample as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> LatentBatch:
        """Return the batch of the samples with these indices in ``[0, 2 N)``."""
        indices = np.asarray(indices)
        samples, flipped = indices % len(self.store), indices >= len(self.store)
        where = torch.from_numpy(flipped)
        mean, std, y = self.store.gather_normalized(samples)
        if self.store.flipped_copies and flipped.any():
            flipped_mean, flipped_std, _ = self.store.gather_normalized(samples[flipped], flipped=True)
            mean[where] = flipped_mean
            if std is not None and flipped_std is not None:
                std[where] = flipped_std
        elif flipped.any():
            for x in (mean, std):
                if x is not None:
                    x[where] = x[where].flip(-1)
        image = None
        if self.images is not None:
            image = self.images.crops(samples)
            image[where] = image[where].flip(-1)
        return LatentBatch(mean, std, y, image)
