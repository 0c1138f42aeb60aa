"""Worker processes that read, decode and crop images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.crop import Crop, crop_image
from datamodules.images.files import ImageFiles, UnreadableImageError


class Span(Protocol):
    """Consecutive images, by their numbers: a ``range``, or a part of a plan."""

    @property
    def start(self) -> int:
        """Number of the first image."""
        ...

    @property
    def stop(self) -> int:
        """Number after the last image."""
        ...


class DecodedPart(NamedTuple):
    """The images of a part.

    Attributes:
        pixels: Those that could be decoded, uint8 ``(B, channels, H, W)``.
        kept: Their numbers in the plan.
        bad: Numbers of the others, and why.
        num_enlarged: How many are smaller than the crop.
        num_rotated: How many have an EXIF orientation.
    """

    pixels: Tensor
    kept: list[int]
    bad: list[tuple[int, str]]
    num_enlarged: int
    num_rotated: int


class PartDataset(Dataset[DecodedPart]):
    """Decodes a part at a time.

    Args:
        files: The source.
        names: Name of each image of the plan.
        parts: What to decode.
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
            OSError: If a file cannot be read from the disk, which is no fault of the image.
        """
        part = self.parts[index]
        crops: dict[int, Crop] = {}
        bad: list[tuple[int, str]] = []
        for number in range(part.start, part.stop):
            try:
                crops[number] = self._crop(self.names[number])
            except UnreadableImageError as error:
                bad.append((number, _reason(error)))
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
        with self.files.open(name) as image:
            try:
                return crop_image(image, self.resolution, self.channels)
            except Exception as error:  # the decoders of Pillow raise about everything
                raise UnreadableImageError(str(error) or type(error).__name__) from error


def require_few(bad: Sequence[tuple[int, str]], names: Sequence[str], max_bad: int) -> None:
    """Check how many images could not be decoded.

    Args:
        bad: Their numbers, and why.
        names: Name of each image.
        max_bad: How many there may be.

    Raises:
        ValueError: If there are more; the last one is named.
    """
    if len(bad) > max_bad:
        number, reason = bad[-1]
        raise ValueError(
            f"{len(bad)} images cannot be decoded, max_bad is {max_bad}; the last is {names[number]} ({reason}); "
            "with a larger max_bad, the same command goes on without them"
        )


def _reason(error: Exception) -> str:
    """Return the first line of a message without addresses in memory, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(error).splitlines()[0].strip())
