"""Image files that are no images, are too large, or have unusual names."""

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from datamodules.images import files as image_files
from datamodules.images.crop import crop_image
from datamodules.images.files import FolderFiles
from datamodules.images.formats import UnreadableImageError, has_signature, open_image
from datamodules.images.given_images import open_given_images
from datamodules.images.listing import list_images, list_unlabeled
from datamodules.preparation import prepare_latents
from datamodules.preparation.decoding import PartDataset
from datamodules.store.manifest import Manifest
from meanflow.codecs import IdentityCodec

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def encoded(kind: str = "png", pixels: np.ndarray = PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 8) + b"IDAT" + b"\0" * 8


def prepare(source: Path, out: Path, **arguments) -> Manifest:
    prepare_latents(source, out, IdentityCodec(3), 16, num_workers=0, device="cpu", **arguments)
    return Manifest.read(out)


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && {{ echo 10.0; exit 0; }}\ntouch "{tmp_path}/EXECUTED"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for the program once
    (tmp_path / "c0").mkdir()
    (tmp_path / "c0" / "cat.jpg").write_bytes(POSTSCRIPT)
    with pytest.raises(UnreadableImageError, match="no known image format"):
        FolderFiles(tmp_path).decode("c0/cat.jpg", lambda image: crop_image(image, 8))
    with pytest.raises(ValueError, match=r"c0/cat\.jpg cannot be decoded: no known image format"):
        open_given_images(tmp_path / "c0", num_workers=0)
    assert not (tmp_path / "EXECUTED").exists()


@pytest.mark.parametrize("content", [POSTSCRIPT, b"GIF89a", b"II*\0", b"8BPS\0\1", b"\0" * 64, b"%PDF-1.4", b""])
def test_other_formats_and_stubs_are_no_images(content):
    with pytest.raises(UnreadableImageError):
        open_image(content)


def test_more_pixels_than_pillow_allows_are_no_image():
    with pytest.raises(UnreadableImageError, match=r"it has 10000 x 10000 pixels, more than \d+ in all"):
        open_image(png_header(10_000, 10_000))
    with pytest.raises(UnreadableImageError, match="exceeds limit"):
        open_image(png_header(2**30, 2**30))


def test_a_thin_line_does_not_become_a_huge_image():
    with pytest.raises(UnreadableImageError, match="it has 25600000 x 256 pixels"):
        crop_image(Image.new("L", (100_000, 1)), 256)
    assert crop_image(Image.new("L", (50, 1)), 16).pixels.shape == (3, 16, 16)


def test_large_files_are_not_read(tmp_path):
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(image_files.LARGEST_FILE + 1)
    with pytest.raises(UnreadableImageError, match="the file has 536870913 bytes"):
        FolderFiles(tmp_path).open("sparse.png")


@pytest.mark.parametrize("place", ["read", "open_image"])
def test_shortness_of_memory_is_no_bad_image(tmp_path, monkeypatch, place):
    (tmp_path / "a.png").write_bytes(encoded())

    def short(*arguments, **keywords):
        raise MemoryError

    monkeypatch.setattr(*((FolderFiles, "read") if place == "read" else (image_files, "open_image")), short)
    part = PartDataset(FolderFiles(tmp_path), ["a.png"], [range(1)], 8, 3)
    with pytest.raises(OSError, match=r"a\.png cannot be read: memory is short on this machine") as caught:
        part[0]
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_shortness_of_memory_while_decoding_is_no_bad_image(tmp_path, error):
    (tmp_path / "a.png").write_bytes(encoded())

    def short(image):
        raise error

    with pytest.raises(OSError, match="memory is short on this machine"):
        FolderFiles(tmp_path).decode("a.png", short)


def test_sixteen_bits_are_scored_as_they_are_prepared(tmp_path):
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 77
    Image.fromarray(levels).save(tmp_path / "a.png")
    ((scored, _),) = open_given_images(tmp_path, num_workers=0).batches()
    prepared = FolderFiles(tmp_path).decode("a.png", lambda image: crop_image(image, 16)).pixels
    assert torch.equal(scored[0], torch.from_numpy(prepared))
    assert (prepared == np.arange(256).reshape(16, 16)).all()


@pytest.fixture
def unusual(tmp_path):
    """Two class folders whose images have unusual suffixes or none, and files that are no images."""
    for folder in ("a", "b"):
        (tmp_path / "x" / folder).mkdir(parents=True)
        for name, kind in (
            ("0.png", "png"),
            ("1.jfif", "jpeg"),
            ("2.jpe", "jpeg"),
            ("3.J2K", "jpeg2000"),
            ("4", "png"),
        ):
            (tmp_path / "x" / folder / name).write_bytes(encoded(kind))
        (tmp_path / "x" / folder / "5.heic").write_bytes(b"no format that is decoded")
        (tmp_path / "x" / folder / "README").write_text("Python reads PPM files")
        (tmp_path / "x" / folder / ".6.png").write_bytes(encoded())
    return tmp_path / "x"


def test_unusual_suffixes_are_read_and_other_files_are_counted(unusual, tmp_path, capsys):
    notes = [
        "left out: 2 hidden files (a/.6.png)",
        "left out: 4 files that are no images by their names (2 .heic, 2 without a suffix)",
    ]
    listing = list_images(FolderFiles(unusual))
    assert [name.split("/")[1] for name in listing.names] == ["0.png", "1.jfif", "2.jpe", "3.J2K", "4"] * 2
    assert list(listing.notes) == notes
    assert list_unlabeled(FolderFiles(unusual)) == (listing.names, notes)
    assert open_given_images(unusual, num_workers=0).notes == [f"{unusual}: {note}" for note in notes]
    manifest = prepare(unusual, tmp_path / "out")
    assert (manifest.num_samples, list(manifest.notes)) == (10, notes)
    assert all(note in capsys.readouterr().out for note in notes[:1])


def test_images_beside_the_training_images_are_counted(tmp_path):
    for name in ("train/a/0.png", "train/b/0.png", "val/a/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    assert list_images(FolderFiles(tmp_path)).notes == ("left out: 1 images beside train/",)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm", "jpeg2000"])
def test_signatures(kind):
    assert has_signature(encoded(kind)[:16])
    assert not has_signature(b"Python 3 is fun.")
    assert not has_signature(POSTSCRIPT[:16])


@pytest.mark.parametrize("layout", ["flat", "edm"])
def test_data_without_labels_are_one_class(tmp_path, layout, capsys):
    source = tmp_path / "source"
    folder = source / "00000" if layout == "edm" else source
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"img{number:08d}.png").write_bytes(encoded())
    if layout == "edm":
        (source / "dataset.json").write_text('{"labels": null}')
    manifest = prepare(source, tmp_path / "out")
    assert (manifest.num_samples, manifest.num_classes) == (4, 1)
    (note,) = manifest.notes
    assert note.startswith("without labels: ")
    assert note.endswith("all 4 images are one class")
    assert note in capsys.readouterr().out
