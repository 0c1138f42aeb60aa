"""The image formats that are decoded. Files of other formats are no images, whatever their names are."""

from __future__ import annotations

import errno
import io
import re
import warnings
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

Result = TypeVar("Result")

# The formats that are decoded, with their suffixes. Pillow knows many more; one of them, PostScript, starts a program.
FORMATS = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# The first bytes of files of these formats. They decide about files whose names have no suffix.
SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftypavi[fs]"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|P[1-6]\s",
    re.DOTALL,
)
SIGNATURE_BYTES = 16


class UnreadableImageError(ValueError):
    """The bytes of a file are no image of a format that is decoded, or the image is damaged or too large."""


def has_signature(content: bytes) -> bool:
    """Return whether a file that begins with ``SIGNATURE_BYTES`` of content is an image of a decoded format."""
    return SIGNATURE.match(content) is not None


def open_image(content: bytes) -> Image.Image:
    """Open an image. Pillow may find damage only later, when it decodes the pixels.

    Raises:
        UnreadableImageError: If the content has another format, or the image has more than
            ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
        MemoryError: If memory is short.
    """
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # older versions of Pillow do not know all of them
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=known)
    except Image.UnidentifiedImageError:  # its message holds an address in memory
        raise UnreadableImageError("no known image format" if content else "empty file") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise exceptions of many types
        raise UnreadableImageError(str(error) or type(error).__name__) from error
    require_few_pixels(*image.size)
    return image


def require_few_pixels(width: int, height: int) -> None:
    """Check that an image has at most ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.

    Raises:
        UnreadableImageError: If the image has more pixels.
    """
    largest = Image.MAX_IMAGE_PIXELS
    if largest is not None and width * height > largest:
        raise UnreadableImageError(f"it has {width} x {height} pixels, more than {largest} in all")


def decode_image(image: Image.Image, function: Callable[[Image.Image], Result], where: object) -> Result:
    """Return the value of a function that decodes an image.

    Args:
        image: The image as ``open_image`` returned it.
        function: The function.
        where: Name of the image in messages.

    Raises:
        UnreadableImageError: If the image is damaged.
        OSError: If memory is short. The image is not to blame.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data and of large images
            return function(image)
    except MemoryError as error:
        raise short_of_memory(where) from error
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of many types
        if "out of memory" in str(error):
            raise short_of_memory(where) from error
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def short_of_memory(where: object) -> OSError:
    """Return the error of a machine that has too little memory to read an image."""
    return OSError(errno.ENOMEM, f"{where} cannot be read: memory is short on this machine")
