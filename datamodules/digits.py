"""Scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.latents import LatentDataModule
from datamodules.store.pixels import open_pixels, write_pixels

RESOLUTION = 8
NUM_SAMPLES = 1797
CLASS_NAMES = [str(digit) for digit in range(10)]


def write_digits(path: str | Path) -> str:
    """Write the 1,797 digits, 8 x 8 pixels in 10 classes, as a store of pixels, unless the store exists.

    Gray level k, from 0 to 16, becomes ``k / 8 - 1`` in [-1, 1], which float16 represents exactly.

    Args:
        path: Folder of the store.

    Returns:
        A sentence that describes the store.

    Raises:
        FileExistsError: If the folder holds another store.
        FileNotFoundError: If the folder exists and is no store.
        ValueError: If the folder holds a damaged store.
    """
    if not Path(path).exists():
        from sklearn.datasets import load_digits

        digits = load_digits()
        gray_levels = torch.from_numpy(digits.images).float().unsqueeze(1)
        write_pixels(path, gray_levels / 8 - 1, torch.from_numpy(digits.target), CLASS_NAMES)
    store = open_pixels(path, RESOLUTION, NUM_SAMPLES, CLASS_NAMES, "the digits")
    return f"{path}: {len(store)} digits, {RESOLUTION} x {RESOLUTION} pixels, {store.manifest.num_classes} classes"


class DigitsDataModule(LatentDataModule):
    """The digits, written as a store of pixels on first use.

    Args:
        path: Folder of the store.
        batch_size: Samples in the global batch of all devices.
        num_workers: Processes per device that read ahead; 0 reads in the training process.
        horizontal_flip: Flip each sample with probability one half. A mirrored digit is no digit.
        seed: Seed of the run.
    """

    def __init__(
        self,
        path: str | Path = "data/digits",
        batch_size: int = 128,
        num_workers: int = 0,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(path, batch_size, num_workers, horizontal_flip, seed)
        self.folder = path

    def prepare_data(self) -> None:
        """Write the store unless it exists. Several processes may do so at once."""
        write_digits(self.folder)
