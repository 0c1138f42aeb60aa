"""The images that reference statistics are taken over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.files import EncodedFiles, open_image_files
from datamodules.images.listing import ImageNames, list_unlabeled
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
        resolution: Height and width of the images.
        origin: Everything else that the pixels depend on, as JSON knows it. The file of statistics records it.
    """

    resolution: int
    origin: dict[str, Any]

    @abstractmethod
    def list(self) -> ImageNames:
        """List the images, which can take minutes.

        Raises:
            ValueError: If there are no images.
        """

    @abstractmethod
    def parts(
        self, names: Sequence[str], ranges: Sequence[range], num_workers: int | None, device: torch.device
    ) -> Iterator[DecodedPart]:
        """Yield the images part by part, on a device, while worker processes read the next parts.

        Args:
            names: Names of the images, which ``list`` returned in this run or in an earlier one.
            ranges: Numbers of the images of each part.
            num_workers: Number of worker processes. ``None`` starts one for each core but one; 0 reads in this process.
            device: Device of the pixels.
        """


class ImageCrops(RealImages):
    """RGB center crops of the images in a folder or a zip file.

    Args:
        files: Where the images lie.
        resolution: Height and width of the crops.
    """

    def __init__(self, files: EncodedFiles, resolution: int) -> None:
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        self.files = files
        self.resolution = resolution
        # Files of statistics record these words, and a run compares them: they must not change.
        self.origin = {"images": "files", "crop": "centre crop of ADM, RGB"}

    def list(self) -> ImageNames:
        """List the names of the files."""
        return list_unlabeled(self.files)

    def parts(
        self, names: Sequence[str], ranges: Sequence[range], num_workers: int | None, device: torch.device
    ) -> Iterator[DecodedPart]:
        """Yield the crops part by part."""
        dataset = PartDataset(self.files, names, ranges, self.resolution, RGB)
        for part in read_ahead(dataset, num_workers, pin_memory=device.type == "cuda"):
            yield part._replace(pixels=part.pixels.to(device, non_blocking=True))


class StoreImages(RealImages):
    """The images that the codec of a store decodes: the images themselves from a store of pixels, else reconstructions.

    If the store holds posteriors, their means are decoded. Pixels are rounded to the nearest of 256 levels.

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
        self.origin = {
            "images": "store of pixels" if name == "identity" else f"reconstructions by {name} from a store of latents",
            "manifest_sha256": sha256_of(store.path / FILE_NAME),
            "codec": store.configuration.codec,
            "codec_weights": self.codec.fingerprint(),
        }

    def list(self) -> ImageNames:
        """Return the numbers of the samples."""
        return ImageNames([str(sample) for sample in range(len(self.store))], [])

    def parts(
        self, names: Sequence[str], ranges: Sequence[range], num_workers: int | None, device: torch.device
    ) -> Iterator[DecodedPart]:
        """Yield the decoded samples part by part."""
        latents = read_ahead(LatentParts(self.store, ranges), num_workers, pin_memory=device.type == "cuda")
        for samples, mean in zip(ranges, latents, strict=True):
            images = round_to_uint8(self.codec.decode(mean.to(device, non_blocking=True)))
            yield DecodedPart(images, list(samples), bad=[], num_enlarged=0, num_rotated=0)


class LatentParts(Dataset[Tensor]):
    """Raw latents, or means of posteriors, part by part.

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
        source: Path of the folder, zip file or store.
        resolution: Height and width of the crops. For a store: ``None``, or the resolution of the store.

    Raises:
        FileNotFoundError: If ``source`` does not exist, or the codec of the store has no weights.
        ValueError: If ``source`` is something else, or the resolution is missing or does not fit the store.
    """
    if (Path(source) / FILE_NAME).is_file():
        store = StoreImages(LatentStore(source))
        if resolution not in (None, store.resolution):
            raise ValueError(f"resolution must be {store.resolution}, as in the store {source}, got {resolution}")
        return store
    files = open_image_files(source)
    if resolution is None:
        raise ValueError(f"a value must be given for resolution: images of {source} are cropped to it")
    assert isinstance(files, EncodedFiles)  # open_image_files returns another type for stores only
    return ImageCrops(files, resolution)
