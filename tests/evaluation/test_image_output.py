"""Files in which an evaluation keeps images."""

import numpy as np
import pytest
import torch
from PIL import Image

from meanflow.evaluation.image_output import GridFile, NpzFile, PngFolder

IMAGES = torch.arange(7 * 3 * 4 * 4).remainder(256).to(torch.uint8).reshape(7, 3, 4, 4)


def fill(output):
    output.add(IMAGES[[0, 2, 4, 6]], [0, 2, 4, 6])
    output.add(IMAGES[[1, 3, 5]], [1, 3, 5])
    output.finish()


def test_png_folder(tmp_path):
    fill(PngFolder(tmp_path / "png"))
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert names == [f"{number:06d}.png" for number in range(7)]
    for image, name in zip(IMAGES, names, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "png" / name)), image.permute(1, 2, 0))


def test_png_folder_with_files_is_refused(tmp_path):
    (tmp_path / "000000.png").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        PngFolder(tmp_path)


def test_npz_file_is_that_of_adm(tmp_path):
    fill(NpzFile(tmp_path / "new" / "samples.npz", torch.arange(7)))
    with np.load(tmp_path / "new" / "samples.npz") as file:
        assert np.array_equal(file["arr_0"], IMAGES.permute(0, 2, 3, 1))
        assert np.array_equal(file["arr_1"], np.arange(7))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["samples.npz"]


def test_grid_has_the_first_images_in_order(tmp_path):
    fill(GridFile(tmp_path / "grid.png", num_images=4, num_columns=2))
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture)
    # Enlarged by 16, with a line between the images.
    assert pixels.shape == (130, 130, 3)
    for number in range(4):
        row, column = divmod(number, 2)
        assert np.array_equal(
            pixels[65 * row : 65 * row + 64 : 16, 65 * column : 65 * column + 64 : 16], IMAGES[number].permute(1, 2, 0)
        )


def test_grey_images(tmp_path):
    output = PngFolder(tmp_path / "png")
    output.add(IMAGES[:1, :1], [0])
    with Image.open(tmp_path / "png" / "000000.png") as image:
        assert image.mode == "L"
