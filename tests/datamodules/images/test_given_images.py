"""Images that are scored as they are."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images.given_images import open_given_images

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number, pixels in enumerate(PIXELS):
        path = tmp_path / "samples" / f"part_{number // 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "samples" / "notes.txt").write_text("no image")
    return tmp_path / "samples"


@pytest.fixture
def archive(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "samples.zip", "w") as file:
        for path in folder.rglob("*.png"):
            file.write(path, path.relative_to(folder))
    return tmp_path / "samples.zip"


@pytest.fixture
def array(tmp_path):
    np.savez_compressed(tmp_path / "samples.npz", arr_0=PIXELS, arr_1=np.arange(5))
    return tmp_path / "samples.npz"


@pytest.mark.parametrize("kind", ["folder", "archive", "array"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_all_images_once_over_all_ranks(kind, world_size, request):
    images = open_given_images(request.getfixturevalue(kind), batch_size=2, num_workers=0)
    assert len(images) == 5
    seen = {}
    for rank in range(world_size):
        for pixels, numbers in images.batches(rank, world_size):
            assert pixels.dtype == torch.uint8
            seen |= dict(zip(numbers, pixels, strict=True))
    assert sorted(seen) == list(range(5))
    assert np.array_equal(torch.stack([seen[number] for number in range(5)]).permute(0, 2, 3, 1), PIXELS)


def test_worker_processes(folder):
    images = open_given_images(folder, batch_size=2, num_workers=1)
    assert np.array_equal(torch.cat([pixels for pixels, _ in images.batches()]).permute(0, 2, 3, 1), PIXELS)


def test_gray_images_become_rgb_and_a_note_mentions_it(tmp_path):
    Image.fromarray(PIXELS[0, :, :, 0]).save(tmp_path / "gray.png")
    images = open_given_images(tmp_path, num_workers=0)
    ((pixels, _),) = images.batches()
    assert np.array_equal(pixels[0], np.stack([PIXELS[0, :, :, 0]] * 3))
    assert "of the mode L are made RGB" in images.notes[0]


def refused(path, message):
    with pytest.raises(ValueError, match=message):
        list(open_given_images(path, num_workers=0).batches())


def test_another_size_is_named(folder):
    Image.fromarray(PIXELS[0, :5, :5]).save(folder / "z.png")
    refused(folder, r"z.png has 5 x 5 pixels, .*0.png 6 x 6")


def test_images_that_are_not_square(tmp_path):
    Image.fromarray(PIXELS[0, :5]).save(tmp_path / "wide.png")
    refused(tmp_path, "wide.png has 6 x 5 pixels; images must be square")


def test_truncated_image(folder):
    file = folder / "part_0" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    refused(folder, "part_0/1.png cannot be decoded")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder, zip or npz file"):
        open_given_images(tmp_path / "nothing")
    refused(tmp_path, "there are no images in it")


def test_npz_of_something_else(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3))
    refused(tmp_path / "a.npz", r"images must be in the array arr_0; there are \['mu'\]")
    np.savez(tmp_path / "b.npz", arr_0=np.zeros((2, 4, 4, 3), dtype=np.float32))
    refused(tmp_path / "b.npz", r"arr_0 must be uint8 of shape \(N, H, W, 1 or 3\) in C order, got float32")
    (tmp_path / "c.npz").write_bytes(b"something else")
    refused(tmp_path / "c.npz", "must be a folder, a zip file or an npz file")


def test_truncated_npz(array, tmp_path):
    np.savez(tmp_path / "d.npz", arr_0=np.zeros((4, 64, 64, 3), dtype=np.uint8))
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[5000] ^= 255  # its checksum no longer fits
    (tmp_path / "d.npz").write_bytes(content)
    refused(tmp_path / "d.npz", "is damaged: Bad CRC-32")
