"""The center crop: from an image of any kind to square 8-bit pixels."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.images.formats import require_few_pixels

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
MODES = {1: "L", 3: "RGB"}


class Crop(NamedTuple):
    """The center of an image.

    Attributes:
        pixels: uint8 ``(channels, resolution, resolution)``.
        enlarged: Whether the image was smaller than the crop and was enlarged.
        rotated: Whether the EXIF orientation asks viewers to rotate or mirror the image.
    """

    pixels: np.ndarray
    enlarged: bool
    rotated: bool


def center_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Return the center of an image at ``resolution`` x ``resolution`` pixels, cropped as in ADM.

    Every ImageNet result in this field uses this crop (Dhariwal and Nichol, 2021).

    A box filter halves the image while its short side is at least twice ``resolution``. A bicubic filter then brings
    the short side to ``resolution``. Last, the center is cut out.

    Raises:
        UnreadableImageError: If the image is so long that it would have too many pixels at that size
            (``require_few_pixels``).
    """
    while min(image.size) >= 2 * resolution:
        width, height = image.size
        image = image.resize((width // 2, height // 2), resample=Image.Resampling.BOX)
    factor = resolution / min(image.size)
    width, height = (round(side * factor) for side in image.size)
    if factor > 1 and width != height:  # a thin line of pixels would become an image of any size
        require_few_pixels(width, height)
    image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))


def crop_image(image: Image.Image, resolution: int, channels: int = 3) -> Crop:
    """Decode an image and cut out its center as in ADM (``center_crop``).

    ``convert_mode`` converts gray, CMYK and palette images. As in the official programs, images smaller than the crop
    are enlarged, and an EXIF orientation is not applied.

    Args:
        image: The image as Pillow opened it. It need not be decoded yet.
        resolution: Height and width of the crop.
        channels: 3 for RGB, 1 for gray.

    Raises:
        Exception: Any exception of Pillow, if the image is truncated or damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data and of large images
        rotated = image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT
        cropped = center_crop(convert_mode(image, channels), resolution)
    pixels = np.array(cropped)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return Crop(np.ascontiguousarray(pixels), min(image.size) < resolution, rotated)


def convert_mode(image: Image.Image, channels: int = 3) -> Image.Image:
    """Decode an image and return it as RGB or as 8-bit gray levels.

    Transparency is dropped. 16-bit gray levels keep their higher 8 bits.

    Args:
        image: The image as Pillow opened it. It need not be decoded yet.
        channels: 3 for RGB, 1 for gray.

    Raises:
        Exception: Any exception of Pillow, if the image is truncated or damaged.
    """
    return _eight_bits(image).convert(MODES[channels])


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode.startswith("I"):  # Pillow would clip gray levels at 255
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError(f"gray levels must have at most 16 bits, got {levels.min()} to {levels.max()}")
        return Image.fromarray((levels >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("gray levels are floating-point numbers, which have no common range")
    return image
