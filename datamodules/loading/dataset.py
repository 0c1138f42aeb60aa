"""A latent store as a data set that answers with whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.images.source_images import SourceImages
from datamodules.store.reader import Latents
from meanflow.types import LatentBatch


class LatentDataset(Dataset[LatentBatch]):
    """Normalised moments of a latent store; nothing in it is random.

    With N samples in the store, index ``i + N`` is the horizontally flipped copy of sample i: the latent of the flipped
    image if the store has it, else the flipped latent, which is nearly the same. The sampler decides which copy is
    used.

    Args:
        store: The store, or several as one.
        images: Also return the source images, centre-cropped to the store's resolution.
        image_root: What source paths are relative to, in place of what the manifest names.

    Raises:
        FileNotFoundError: If images are asked for and ``image_root`` does not exist.
        ValueError: If images are asked for and the store does not say where they are.
    """

    def __init__(self, store: Latents, images: bool = False, image_root: str | Path | None = None) -> None:
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
