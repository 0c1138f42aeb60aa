"""Crops of images of every kind."""

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.images.crop import center_crop, crop_image

GRAY = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17


def encoded(image: Image.Image, kind: str = "png", **arguments) -> Image.Image:
    """Write an image to a file in memory, and open it again."""
    file = io.BytesIO()
    image.save(file, kind, **arguments)
    return Image.open(file)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_gray_palette_and_transparent_images_become_rgb(mode):
    crop = crop_image(encoded(Image.fromarray(GRAY).convert(mode)), 4)
    assert crop.pixels.shape == (3, 4, 4)
    assert (crop.pixels == GRAY).all()
    assert not crop.enlarged
    assert not crop.rotated
    assert (crop_image(encoded(Image.fromarray(GRAY).convert(mode)), 4, channels=1).pixels == GRAY[None]).all()


def test_a_palette_with_transparency_keeps_its_colors():
    image = Image.fromarray(GRAY).convert("P")
    crop = crop_image(encoded(image, transparency=bytes(range(16))), 4)
    assert (crop.pixels == GRAY).all()


def test_cmyk_is_converted():
    pixels = crop_image(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "jpeg", quality=100), 4).pixels
    assert np.abs(pixels.astype(int) - np.array([255, 0, 0]).reshape(3, 1, 1)).max() <= 4


def test_of_sixteen_bits_the_higher_eight_are_taken():
    levels = GRAY.astype(np.uint16) * 256 + 200
    assert (crop_image(encoded(Image.fromarray(levels)), 4).pixels == GRAY).all()
    assert (crop_image(Image.fromarray(levels.astype(np.int32)), 4).pixels == GRAY).all()
    with pytest.raises(ValueError, match="gray levels must have at most 16 bits, got 0 to 70000"):
        crop_image(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), 1)
    with pytest.raises(ValueError, match="floating-point"):
        crop_image(Image.fromarray(GRAY.astype(np.float32)), 4)


def test_small_images_are_enlarged_and_say_so():
    crop = crop_image(Image.new("RGB", (3, 2), (9, 80, 200)), 4)
    assert crop.enlarged
    assert (crop.pixels == np.array([9, 80, 200]).reshape(3, 1, 1)).all()


def test_an_exif_orientation_is_noted_and_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    crop = crop_image(encoded(Image.fromarray(GRAY), exif=exif), 4)
    assert crop.rotated
    assert (crop.pixels == GRAY).all()


def test_a_truncated_image_raises():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file, "jpeg")
    with pytest.raises(OSError, match="truncated"):
        crop_image(Image.open(io.BytesIO(file.getvalue()[:900])), 4)


def test_an_image_of_the_right_height_is_only_cut():
    pixels = np.arange(4 * 7 * 3, dtype=np.uint8).reshape(4, 7, 3)
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(pixels), 4)), pixels[:, 1:5])


def test_halving_averages_blocks():
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[:2, :2] = [[[0], [40]], [[80], [120]]]
    assert np.asarray(center_crop(Image.fromarray(pixels), 2))[0, 0].tolist() == [60, 60, 60]


@pytest.mark.parametrize("size", [(9, 31), (33, 17), (8, 8), (5, 4)])
def test_a_flat_image_stays_flat(size):
    cropped = np.asarray(center_crop(Image.new("RGB", size, (9, 80, 200)), 8))
    assert cropped.shape == (8, 8, 3)
    assert (cropped == [9, 80, 200]).all()
