"""From an image of any kind to the pixels that are encoded."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
MODES = {1: "L", 3: "RGB"}


class Crop(NamedTuple):
    """The centre of an image.

    Attributes:
        pixels: uint8 ``(channels, resolution, resolution)``.
        enlarged: Whether the image was smaller than the crop and had to be enlarged.
        rotated: Whether EXIF says that the image is to be shown rotated or mirrored.
    """

    pixels: np.ndarray
    enlarged: bool
    rotated: bool


def center_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Return the centre of an image at ``resolution`` x ``resolution`` pixels, cropped as by ADM.

    Every ImageNet result in this field uses this crop (Dhariwal and Nichol, 2021).

    The short side is halved with a box filter while it is at least twice ``resolution``, then brought to ``resolution``
    with a bicubic one; then the centre is cut out.
    """
    while min(image.size) >= 2 * resolution:
        width, height = image.size
        image = image.resize((width // 2, height // 2), resample=Image.Resampling.BOX)
    factor = resolution / min(image.size)
    width, height = (round(side * factor) for side in image.size)
    image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))


def crop_image(image: Image.Image, resolution: int, channels: int = 3) -> Crop:
    """Decode an image and cut out its centre as ADM does (``center_crop``).

    Grey, CMYK and palette images are converted, transparency is dropped, of 16 bits the higher 8 are taken. Images
    smaller than the crop are enlarged. Pixels are taken as they are stored: an EXIF orientation is not applied. Both is
    what the official programs do.

    Args:
        image: As Pillow opened it; it may not have been decoded yet.
        resolution: Height and width of the crop.
        channels: 3 for RGB, 1 for grey.

    Raises:
        Exception: Whatever Pillow raises for a truncated or damaged image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF data, and of large images
        rotated = image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT
        cropped = center_crop(_eight_bits(image).convert(MODES[channels]), resolution)
    pixels = np.array(cropped)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return Crop(np.ascontiguousarray(pixels), min(image.size) < resolution, rotated)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode.startswith("I"):  # Pillow would cut off what is above 255
        levels = np.array(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError(f"grey levels must have at most 16 bits, got {levels.min()} to {levels.max()}")
        return Image.fromarray((levels >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("grey levels are floating-point numbers, which have no common range")
    return image
