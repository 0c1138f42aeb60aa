"""Reading, decoding and cropping the images of a plan, one part after another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.crop import Crop, crop_image
from datamodules.images.files import ImageFiles
from datamodules.images.formats import UnreadableImageError, short_of_memory
from datamodules.preparation.bad_images import BadImage


class Span(Protocol):
    """Consecutive images of a plan: a ``range`` of their numbers, or a part that has these two attributes."""

    @property
    def start(self) -> int:
        """Number of the first image."""
        ...

    @property
    def stop(self) -> int:
        """Number after that of the last image."""
        ...


class DecodedPart(NamedTuple):
    """The decoded images of a part.

    Attributes:
        pixels: The images that could be decoded, uint8 ``(B, channels, H, W)``.
        kept: Number of each of these images in the plan.
        bad: The other images of the part.
        num_enlarged: How many images are smaller than the crop.
        num_rotated: How many images have an EXIF orientation.
    """

    pixels: Tensor
    kept: list[int]
    bad: list[BadImage]
    num_enlarged: int
    num_rotated: int


class PartDataset(Dataset[DecodedPart]):
    """Decoded parts of a plan.

    Args:
        files: Where the images lie.
        names: Name of each image of the plan.
        parts: The parts to decode.
        resolution: Height and width of the crops.
        channels: Channels of the crops.
    """

    def __init__(
        self, files: ImageFiles, names: Sequence[str], parts: Sequence[Span], resolution: int, channels: int
    ) -> None:
        self.files = files
        self.names = names
        self.parts = parts
        self.resolution = resolution
        self.channels = channels

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> DecodedPart:
        """Decode a part.

        Raises:
            OSError: If the disk cannot be read, or memory is short. The image is not to blame, and is not counted as a
                bad image.
            ValueError: If a name leads out of the source.
        """
        part = self.parts[index]
        crops: dict[int, Crop] = {}
        bad: list[BadImage] = []
        for number in range(part.start, part.stop):
            try:
                crops[number] = self._crop(self.names[number])
            except UnreadableImageError as error:
                bad.append(BadImage(number, _reason(error)))
            except MemoryError as error:
                raise short_of_memory(self.files.path / self.names[number]) from error
        pixels = np.empty((len(crops), self.channels, self.resolution, self.resolution), dtype=np.uint8)
        for row, crop in enumerate(crops.values()):
            pixels[row] = crop.pixels
        return DecodedPart(
            torch.from_numpy(pixels),
            list(crops),
            bad,
            sum(crop.enlarged for crop in crops.values()),
            sum(crop.rotated for crop in crops.values()),
        )

    def _crop(self, name: str) -> Crop:
        return self.files.decode(name, lambda image: crop_image(image, self.resolution, self.channels))


def _reason(error: Exception) -> str:
    """Return the first line of a message without memory addresses, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(error).splitlines()[0].strip())
