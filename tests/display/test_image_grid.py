import numpy as np
import pytest
import torch

from meanflow.display.image_grid import image_grid


def tiles(num: int, channels: int = 3, side: int = 64) -> torch.Tensor:
    """Tile i has the constant color 10 i + channel."""
    levels = 10 * torch.arange(num)[:, None] + torch.arange(channels)
    return levels[:, :, None, None].expand(num, channels, side, side).to(torch.uint8)


@pytest.mark.parametrize(("num", "columns", "size"), [(6, 3, (195, 130)), (5, 3, (195, 130)), (2, 2, (130, 65))])
def test_size_is_that_of_the_tiles_and_their_borders(num, columns, size):
    picture = image_grid(tiles(num), columns)
    assert picture.size == size  # (width, height)
    assert picture.mode == "RGB"


def test_images_lie_row_by_row_with_white_lines_between():
    pixels = np.asarray(image_grid(tiles(5), num_columns=3))
    for i in range(5):
        top, left = 65 * (i // 3), 65 * (i % 3)
        tile = pixels[top : top + 64, left : left + 64]
        assert (tile == [10 * i, 10 * i + 1, 10 * i + 2]).all()
    assert (pixels[64::65] == 255).all()
    assert (pixels[:, 64::65] == 255).all()
    assert (pixels[65:, 130:] == 255).all()  # the sixth place is blank


def test_small_images_are_enlarged_pixel_by_pixel():
    image = torch.arange(8 * 8 * 3, dtype=torch.uint8).reshape(1, 3, 8, 8)
    pixels = np.asarray(image_grid(image, num_columns=1, border=0))
    assert pixels.shape == (64, 64, 3)
    assert np.array_equal(pixels[::8, ::8], image[0].permute(1, 2, 0).numpy())
    assert np.array_equal(pixels, np.repeat(np.repeat(pixels[::8, ::8], 8, axis=0), 8, axis=1))


def test_the_factor_is_whole_and_large_images_stay():
    assert image_grid(tiles(1, side=28), 1, min_side=64, border=0).size == (84, 84)
    assert image_grid(tiles(1, side=96), 1, min_side=64, border=0).size == (96, 96)


def test_grey_images_become_rgb():
    gray = tiles(3, channels=1, side=64)
    pixels = np.asarray(image_grid(gray, num_columns=3))
    assert pixels.shape == (65, 195, 3)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert [pixels[0, 65 * i, 0] for i in range(3)] == [0, 10, 20]


def test_images_need_not_be_square():
    images = torch.zeros(2, 3, 16, 64, dtype=torch.uint8)
    assert image_grid(images, num_columns=2, min_side=16, border=0).size == (128, 16)
    assert image_grid(images, num_columns=2, min_side=32, border=0).size == (256, 32)
