"""A latent store as a data set that answers with whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.center_crop import center_crop
from datamodules.store import LatentStore
from meanflow.types import LatentBatch


class LatentDataset(Dataset[LatentBatch]):
    """Normalised moments of a latent store; nothing in it is random.

    With N samples in the store, index ``i + N`` is the horizontally flipped copy of sample i. Which copy is used is up
    to the sampler.

    Args:
        store: The store.
        images: Also return the source images, centre-cropped to the store's resolution.
        image_root: The folder that source paths are relative to, in place of the one that the manifest names.

    Raises:
        ValueError: If images are asked for and the store does not say where they are.
    """

    def __init__(self, store: LatentStore, images: bool = False, image_root: str | Path | None = None) -> None:
        self.store = store
        self.image_folder: Path | None = None
        if images:
            root = image_root if image_root is not None else store.manifest.image_root
            if root is None:
                raise ValueError(f"{store.path}: image_root must be given, the manifest does not name one")
            # An argument starts at the working directory, the manifest's value at the store.
            self.image_folder = Path(image_root) if image_root is not None else store.path / root
            _ = store.sources  # fails here, not in a worker

    def __len__(self) -> int:
        return 2 * len(self.store)

    def __getitem__(self, index: int) -> LatentBatch:
        """Return one sample as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> LatentBatch:
        """Return the batch of the samples with these indices in ``[0, 2 N)``."""
        samples, flipped = np.asarray(indices) % len(self.store), np.asarray(indices) >= len(self.store)
        mean, std, y = self.store.gather(samples)
        normalization = self.store.manifest.normalization
        return LatentBatch(
            mean=_flip(normalization.normalize(mean), flipped),
            std=None if std is None else _flip(normalization.normalize_std(std), flipped),
            y=y,
            image=None if self.image_folder is None else _flip(self._read_images(samples), flipped),
        )

    def _read_images(self, samples: np.ndarray) -> Tensor:
        assert self.image_folder is not None
        return torch.stack([self._read_image(self.image_folder / self.store.sources[sample]) for sample in samples])

    def _read_image(self, path: Path) -> Tensor:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: source image of {self.store.path} not found; set image_root to its folder"
            )
        with Image.open(path) as image:
            cropped = center_crop(image.convert("RGB"), self.store.manifest.resolution)
        return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)


def _flip(x: Tensor, flipped: np.ndarray) -> Tensor:
    where = torch.from_numpy(flipped).reshape(-1, 1, 1, 1)
    return torch.where(where, x.flip(-1), x)
