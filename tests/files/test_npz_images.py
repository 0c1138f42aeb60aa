"""Reading the images of a .npz file in parts."""

import numpy as np
import pytest
import torch

from meanflow.files.npz_images import NpzImages


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 3, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_batches_are_the_images_in_order(tmp_path, images, save, batch_size):
    save(tmp_path / "adm.npz", mu=np.zeros(2), arr_0=images)
    file = NpzImages(tmp_path / "adm.npz")
    assert len(file) == 7
    batches, numbers = zip(*file.batches(batch_size), strict=True)
    assert [number for part in numbers for number in part] == list(range(7))
    assert [len(batch) for batch in batches] == [min(batch_size, 7 - start) for start in range(0, 7, batch_size)]
    assert torch.equal(torch.cat(batches), torch.from_numpy(images).permute(0, 3, 1, 2))
    assert all(batch.is_contiguous() and batch.dtype == torch.uint8 for batch in batches)


def test_a_file_is_read_no_further_than_asked_for(tmp_path, images):
    """The end of the array is damaged; the first batch comes out all the same."""
    images = np.repeat(images, 20_000, axis=0)
    np.savez(tmp_path / "adm.npz", arr_0=images)
    content = bytearray((tmp_path / "adm.npz").read_bytes())
    content[len(content) - 10_000] ^= 255
    (tmp_path / "adm.npz").write_bytes(content)
    batches = NpzImages(tmp_path / "adm.npz").batches(4)
    assert torch.equal(next(batches)[0], torch.from_numpy(images[:4]).permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"adm\.npz is damaged: Bad CRC-32"):
        list(batches)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 3, 3)), r"uint8 of shape \(N, H, W, 1 or 3\) in C order, got float64 \(2, 3, 3, 3\)"),
        (np.zeros((2, 3, 3), dtype=np.uint8), r"got uint8 \(2, 3, 3\)"),
        (np.zeros((2, 3, 3, 4), dtype=np.uint8), r"got uint8 \(2, 3, 3, 4\)"),
        (np.asfortranarray(np.zeros((2, 3, 3, 3), dtype=np.uint8)), "in C order"),
        (np.array([{}], dtype=object), "data type object"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, message):
    np.savez(tmp_path / "other.npz", arr_0=array)
    with pytest.raises(ValueError, match=rf"other\.npz: .*{message}"):
        NpzImages(tmp_path / "other.npz")


def test_what_is_wrong_is_named(tmp_path, images):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        NpzImages(tmp_path / "none.npz")
    np.savez(tmp_path / "jit.npz", mu=np.zeros(2))
    with pytest.raises(ValueError, match=r"jit\.npz: images must be in the array arr_0; there are \['mu'\]"):
        NpzImages(tmp_path / "jit.npz")
    (tmp_path / "jit.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"jit\.npz is damaged, or no NumPy archive"):
        NpzImages(tmp_path / "jit.npz")
