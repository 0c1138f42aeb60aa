"""The images that statistics are taken over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, device
from torch.utils.data import Dataset

from datamodules.images.files import EncodedFiles, open_image_files
from datamodules.images.listing import list_unlabelled
from datamodules.images.read_ahead import read_ahead
from datamodules.preparation.decoding import DecodedPart, PartDataset
from datamodules.store.manifest import FILE_NAME
from datamodules.store.reader import LatentStore
from meanflow.codecs import round_to_uint8
from meanflow.files.remote import sha256_of

RGB = 3


class RealImages(ABC):
    """Images in a fixed order.

    Attributes:
        resolution: Their height and width.
        about: What else their pixels depend on, by name, as JSON knows it.
    """

    resolution: int
    about: dict[str, Any]

    @abstractmethod
    def names(self) -> list[str]:
        """List them, which can take minutes.

        Raises:
            ValueError: If there are none.
        """

    @abstractmethod
    def parts(
        self, names: Sequence[str], ranges: Sequence[range], num_workers: int | None, device: device
    ) -> Iterator[DecodedPart]:
        """Yield images a part at a time, on a device, while worker processes read ahead.

        Args:
            names: What ``names`` returned, or had returned in an earlier run.
            ranges: Numbers of the images of each part.
            num_workers: Number of worker processes; ``None`` for one for each core but one, 0 to read in this process.
            device: Where the pixels are to be.
        """


class ImageCrops(RealImages):
    """Centre crops of the images in a folder or a zip file, RGB.

    Args:
        files: Where they lie.
        resolution: Height and width of the crops.
    """

    def __init__(self, files: EncodedFiles, resolution: int) -> None:
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.files = files
        self.resolution = resolution
        self.about = {"images": "files", "crop": "centre crop of ADM, RGB"}

    def names(self) -> list[str]:
        """List the names of the files."""
        return list_unlabelled(self.files)

    def parts(
        self, names: Sequence[str], ranges: Sequence[range], num_workers: int | None, device: device
    ) -> Iterator[DecodedPart]:
        """Yield crops."""
        dataset = PartDataset(self.files, names, ranges, self.resolution, RGB)
        for part in read_ahead(dataset, num_workers, pin_memory=device.type == "cuda"):
            yield part._replace(pixels=part.pixels.to(device, non_blocking=True))


class StoreImages(RealImages):
    """What the codec of a store decodes from it: the images themselves in a store of pixels, else reconstructions.

    Of posteriors, the means are decoded. Pixels are rounded to the nearest of 256 levels.

    Args:
        store: The store.

    Raises:
        FileNotFoundError: If the codec has no weights.
    """

    def __init__(self, store: LatentStore) -> None:
        self.store = store
        self.resolution = store.configuration.resolution
        self.codec = store.codec()
        self.codec.prepare()
        name = store.configuration.codec["name"]
        self.about = {
            "images": "store of pixels" if name == "identity" else f"reconstructions by {name} from a store of latents",
            "manifest_sha256": sha256_of(store.path / FILE_NAME),
            "codec": store.configuration.codec,
            "codec_weights": self.codec.fingerprint(),
        }

    def names(self) -> list[str]:
        """Return the numbers of the samples."""
        return [str(sample) for sample in range(len(self.store))]

    def parts(
        self, names: Sequence[str], ranges: Sequence[range], num_workers: int | None, device: device
    ) -> Iterator[DecodedPart]:
        """Yield decoded samples."""
        latents = read_ahead(LatentParts(self.store, ranges), num_workers, pin_memory=device.type == "cuda")
        for samples, mean in zip(ranges, latents, strict=True):
            images = round_to_uint8(self.codec.decode(mean.to(device, non_blocking=True)))
            yield DecodedPart(images, list(samples), bad=[], num_enlarged=0, num_rotated=0)


class LatentParts(Dataset[Tensor]):
    """Reads raw latents, means of posteriors, a part at a time.

    Args:
        store: The store.
        ranges: Numbers of the samples of each part.
    """

    def __init__(self, store: LatentStore, ranges: Sequence[range]) -> None:
        self.store = store
        self.ranges = ranges

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int) -> Tensor:
        return self.store.gather(np.array(self.ranges[index]))[0]


def open_real_images(source: str | Path, resolution: int | None) -> RealImages:
    """Open a folder or zip file of images, or a store.

    Args:
        source: Where they are.
        resolution: Height and width that images are cropped to; for a store, ``None`` or its own.

    Raises:
        FileNotFoundError: If there is nothing, or a store whose codec has no weights.
        ValueError: If it is something else, or the resolution is not given or does not fit.
    """
    if (Path(source) / FILE_NAME).is_file():
        store = StoreImages(LatentStore(source))
        if resolution not in (None, store.resolution):
            raise ValueError(f"resolution must be {store.resolution}, as in the store {source}, got {resolution}")
        return store
    files = open_image_files(source)
    if resolution is None:
        raise ValueError(f"a value must be given for resolution, that images of {source} are cropped to")
    assert isinstance(files, EncodedFiles)  # what else open_image_files knows is a store
    return ImageCrops(files, resolution)
