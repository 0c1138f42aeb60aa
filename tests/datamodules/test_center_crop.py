import numpy as np
import pytest
from PIL import Image

from datamodules.center_crop import center_crop


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
