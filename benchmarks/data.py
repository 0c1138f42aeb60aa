"""Latents per second of the data module and of data sets with one file per image, in one process.

    python benchmarks/data.py [--samples 4096] [--batch-size 256] [--rounds 5] [--folder DIR]

The same random moments (8 x 32 x 32, as for ImageNet at 256 pixels) are written in three forms: a latent store, and the
official layouts of DMF (.npy) and iMF (.pt). A DataLoader reads each of them in random order. All files have been read
once before, so that they are in memory. All forms give the same batches: mean and standard deviation, multiplied by
0.18215, in float32, and labels. Rounds of the three forms alternate, and the median counts. Seconds are processor time,
which equals wall time on an idle machine and does not include other jobs on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# Before torch is imported: one process and one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules import LatentDataModule, LatentStoreWriter
from datamodules.loading.dataset import LatentDataset
from meanflow.codecs.normalization import SCALE_0_18215

CODEC = {"name": "autoencoder_kl", "path": "stabilityai/sd-vae-ft-mse"}
NUM_CLASSES = 1000
SCALE = SCALE_0_18215.scale[0]


class FilePerImage(Dataset[tuple[Tensor, Tensor, int]]):
    """One file per image, read and normalized one by one; labels are known beforehand."""

    def __init__(self, files: list[Path], y: Tensor, read: Callable[[Path], Tensor]) -> None:
        self.files = files
        self.y = y.tolist()
        self.read = read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        """Return mean and standard deviation, ``(4, 32, 32)``, and label."""
        mean, std = self.read(self.files[index]).chunk(2)
        return mean * SCALE, std * SCALE, self.y[index]


def read_npy(path: Path) -> Tensor:
    """Read a file of the DMF layout."""
    return torch.from_numpy(np.load(path))


def read_pt(path: Path) -> Tensor:
    """Read a file of the iMF layout."""
    return torch.load(path, weights_only=True)["image"]


def write_all(folder: Path, num_samples: int) -> tuple[Path, list[Path], list[Path], Tensor]:
    """Write the latents three times; return the store, the files of both layouts, and the labels."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(NUM_CLASSES, (num_samples,), generator=generator)
    npy = [folder / "npy" / f"{i // 1000:05d}" / f"{i:08d}.npy" for i in range(num_samples)]
    pt = [folder / "pt" / f"{i:08d}.pt" for i in range(num_samples)]
    with LatentStoreWriter(
        folder / "store",
        kind="moments",
        codec=CODEC,
        normalization=SCALE_0_18215,
        resolution=256,
        latent_shape=(4, 32, 32),
        num_classes=NUM_CLASSES,
    ) as writer:
        for start in range(0, num_samples, 256):
            mean, std = torch.randn(2, min(256, num_samples - start), 4, 32, 32, generator=generator)
            rows = torch.cat([mean, std.abs()], dim=1).half().float()  # what float16 keeps, so that all hold the same
            writer.append(rows[:, :4], rows[:, 4:], y[start : start + 256])
            for i, row in enumerate(rows, start):
                for file in (npy[i], pt[i]):
                    file.parent.mkdir(parents=True, exist_ok=True)
                np.save(npy[i], row.numpy())
                torch.save({"image": row.clone(), "label": y[i].clone()}, pt[i])
    return folder / "store", npy, pt, y


def latents_per_second(loader: Iterable[object], num_latents: int) -> float:
    """Go through a loader once."""
    start = time.process_time()
    for _ in loader:
        pass
    return num_latents / (time.process_time() - start)


def main() -> None:
    """Write, read in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write for the time being; default: the temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store, npy, pt, y = write_all(Path(folder), arguments.samples)
        datamodule = LatentDataModule(store, arguments.batch_size)
        size = {"batch_size": arguments.batch_size, "shuffle": True, "drop_last": True}
        loaders: dict[str, Iterable[object]] = {
            "LatentDataModule": datamodule.train_dataloader(),
            "one .npy per image (DMF)": DataLoader(FilePerImage(npy, y, read_npy), **size),
            "one .pt per image (iMF)": DataLoader(FilePerImage(pt, y, read_pt), **size),
        }
        mean, std, _ = FilePerImage(npy, y, read_npy)[7]
        row = LatentDataset(datamodule.store)[7]
        if row.std is None or not torch.equal(row.mean[0], mean) or not torch.equal(row.std[0], std):
            raise AssertionError("the data sets do not hold the same latents")
        num_latents = arguments.samples // arguments.batch_size * arguments.batch_size
        speeds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(arguments.rounds + 1):  # the first round brings the files into memory
            for name, loader in loaders.items():
                speeds[name].append(latents_per_second(loader, num_latents))
    medians = {name: statistics.median(values[1:]) for name, values in speeds.items()}
    ours = medians["LatentDataModule"]
    print(f"latents per second, batch {arguments.batch_size}, {arguments.samples} samples, one process, one thread")
    for name, median in medians.items():
        spread = f"{min(speeds[name][1:]):.0f} to {max(speeds[name][1:]):.0f}"
        print(f"{name:26} {median:9.0f}   ({spread})" + ("" if median == ours else f"   1/{ours / median:.1f} of ours"))


if __name__ == "__main__":
    main()
