"""Fashion-MNIST: 70,000 real gray images of clothes in 10 classes."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from datamodules.latents import LatentDataModule
from datamodules.store.pixels import open_pixels, write_pixels

RESOLUTION = 32
PADDING = 2  # pixels of background on each side of the 28 x 28 pixels
CLASS_NAMES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"


def write_fashion_mnist(path: str | Path, split: str = "train", source: str | Path = DEBIAN_FOLDER) -> str:
    """Write Fashion-MNIST, padded to 32 x 32 pixels, as a store of pixels, unless the store exists.

    Args:
        path: Folder of the store.
        split: ``train`` (60,000 images) or ``test`` (10,000).
        source: Folder of the IDX files, as Debian's package ``dataset-fashion-mnist`` installs them. If the folder does
            not exist, torchvision downloads the files into a folder beside ``path``.

    Returns:
        A sentence that describes the store.

    Raises:
        FileExistsError: If the folder holds another store.
        FileNotFoundError: If the IDX files do not exist and cannot be downloaded, or ``path`` exists and is no store.
        ValueError: If ``split`` is unknown, or a file is damaged.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {sorted(SPLITS)}, got {split!r}")
    prefix, num_samples = SPLITS[split]
    if not Path(path).exists():
        folder = Path(source) if Path(source).is_dir() else _download(Path(path).parent)
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", (num_samples, 28, 28))
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (num_samples,))
        padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
        pixels = torch.from_numpy(padded).unsqueeze(1).float() / 127.5 - 1
        write_pixels(path, pixels, torch.from_numpy(labels.astype(np.int64)), CLASS_NAMES)
    store = open_pixels(path, RESOLUTION, num_samples, CLASS_NAMES, f"Fashion-MNIST ({split})")
    return f"{path}: {len(store)} images, {RESOLUTION} x {RESOLUTION} pixels, {len(CLASS_NAMES)} classes"


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a gzipped IDX file of bytes.

    An IDX file holds two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, and the data.

    Args:
        path: The file.
        shape: Shape that the data must have.

    Returns:
        The data, uint8.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, or its data have another type or shape.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: truncated, or not a gzip file ({error})") from error
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    if content[: len(header)] != header or len(content) != len(header) + np.prod(shape):
        raise ValueError(f"{path}: must be an IDX file of {' x '.join(map(str, shape))} bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape)


class FashionMNISTDataModule(LatentDataModule):
    """Fashion-MNIST, written as a store of pixels on first use.

    Args:
        path: Folder of the store.
        batch_size: Samples in the global batch of all devices.
        num_workers: Processes per device that read ahead; 0 reads in the training process.
        horizontal_flip: Flip each sample with probability one half.
        seed: Seed of the run.
        split: ``train`` (60,000 images) or ``test`` (10,000).
        source: Folder of the IDX files; see ``write_fashion_mnist``.

    Raises:
        ValueError: If ``split`` is unknown.
    """

    def __init__(
        self,
        path: str | Path = "data/fashion_mnist",
        batch_size: int = 128,
        num_workers: int = 0,
        horizontal_flip: bool = False,
        seed: int = 0,
        split: str = "train",
        source: str | Path = DEBIAN_FOLDER,
    ) -> None:
        super().__init__(path, batch_size, num_workers, horizontal_flip, seed)
        if split not in SPLITS:
            raise ValueError(f"split must be one of {sorted(SPLITS)}, got {split!r}")
        self.folder = path
        self.split = split
        self.source = source

    def prepare_data(self) -> None:
        """Write the store unless it exists. Several processes may do so at once."""
        write_fashion_mnist(self.folder, self.split, self.source)


def _download(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        return Path(FashionMNIST(str(folder), download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"Fashion-MNIST: there is no folder {DEBIAN_FOLDER} (Debian package dataset-fashion-mnist), and the files "
            f"cannot be downloaded: {error}"
        ) from error
