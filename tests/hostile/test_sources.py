"""Folders with links, pipes and devices; zip files with names, links and sizes that lead astray."""

import io
import os
import socket
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import files as image_files
from datamodules.images.files import FolderFiles, ZipFiles, open_image_files
from datamodules.images.formats import UnreadableImageError
from datamodules.images.listing import list_images
from datamodules.preparation import prepare_latents
from meanflow.codecs import IdentityCodec


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("c0/dog.png", "c1/cat.png"):
        (tmp_path / "src" / name).parent.mkdir(parents=True)
        (tmp_path / "src" / name).write_bytes(png())
    return tmp_path / "src"


def listed(source: Path) -> tuple[list[str], list[str]]:
    listing = list_images(open_image_files(source))
    return listing.names, list(listing.notes)


@pytest.mark.parametrize(
    ("links", "left_out"),
    [
        ({"c0/loop": "."}, "1 links to folders that are listed already or that hold the source (c0/loop)"),
        ({"c0/l1": ".", "c0/l2": "."}, "2 links to folders that are listed already or that hold the source (c0/l1)"),
        ({"c0/up": "../.."}, "1 links to folders that are listed already or that hold the source (c0/up)"),
        ({"c0/top": "/"}, "1 links to folders that are listed already or that hold the source (c0/top)"),
        ({"c0/other": "../c1"}, "1 links to folders that are listed already or that hold the source (c0/other)"),
        ({"c0/x.png": "nothing"}, "1 links that lead to nothing (c0/x.png)"),
        ({"c0/x.png": "x.png"}, "1 links that lead to nothing (c0/x.png)"),
        ({"c0/x.png": "/dev/zero"}, "1 pipes and devices (c0/x.png)"),
    ],
)
def test_links_that_multiply_images_or_hang_are_left_out(folder, links, left_out):
    for name, target in links.items():
        (folder / name).symlink_to(target)
    assert listed(folder) == (["c0/dog.png", "c1/cat.png"], [f"left out: {left_out}"])


def test_pipes_and_sockets_are_left_out(folder, monkeypatch):
    os.mkfifo(folder / "c0" / "x.png")
    monkeypatch.chdir(folder)  # addresses of sockets are short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("c1/y.png")
        assert listed(folder)[1] == ["left out: 2 pipes and devices (c0/x.png)"]
    with pytest.raises(ValueError, match=r"'c0/x.png' is a pipe or a device"):
        FolderFiles(folder).open("c0/x.png")
    with pytest.raises(ValueError, match="must be a folder or a zip file"):
        open_image_files(folder / "c0" / "x.png")


def test_links_to_other_disks_are_followed_once(folder, tmp_path):
    (tmp_path / "disk" / "c2").mkdir(parents=True)
    (tmp_path / "disk" / "c2" / "cow.png").write_bytes(png())
    (tmp_path / "disk" / "c2" / "again").symlink_to("../c2")
    (folder / "c2").symlink_to(tmp_path / "disk" / "c2")
    (folder / "c3").symlink_to(tmp_path / "disk" / "c2")
    (folder / "c0" / "cow.png").symlink_to("../c2/cow.png")
    names, notes = listed(folder)
    assert names == ["c0/cow.png", "c0/dog.png", "c1/cat.png", "c2/cow.png"]
    assert notes == ["left out: 2 links to folders that are listed already or that hold the source (c2/again)"]
    assert FolderFiles(folder).open("c2/cow.png").size == (16, 16)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other.png", "c0/../../x.png", "C:\\x.png", "..\\x.png", "", "a\0b"]
)
def test_names_lead_nowhere_else(folder, name):
    with pytest.raises(ValueError, match=r"src: .*name"):
        FolderFiles(folder).open(name)


def zip_of(path: Path, *names: str, kind: int = 0, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            info.compress_type = compression
            archive.writestr(info, png())
    return path


@pytest.mark.parametrize("top", ["./", ".\\", ".//./", ""])
@pytest.mark.parametrize("separator", ["/", "\\", "//"])
def test_spellings_of_names_do_not_mix_labels(tmp_path, top, separator):
    names = [f"{top}data{separator}{c}{separator}0.png" for c in "ab"]
    listing = list_images(ZipFiles(zip_of(tmp_path / "a.zip", *names)))
    assert listing.names == ["data/a/0.png", "data/b/0.png"]
    assert listing.labels.tolist() == [0, 1]
    assert ZipFiles(tmp_path / "a.zip").open(listing.names[1]).size == (16, 16)


@pytest.mark.parametrize("name", ["/data/a/0.png", "../a/0.png", "a/../../0.png", "C:\\data\\a\\0.png", "\\a\\0.png"])
def test_names_outside_of_the_zip_file_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"a\.zip: names must (be relative to|lie inside of) it, got"):
        listed(zip_of(tmp_path / "a.zip", "b/0.png", name))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a/0.png", "a/0.png"), ("a/0.png", "./a/0.png"), (".//a/0.png", "./a/0.png")])
def test_images_that_a_zip_file_holds_twice_are_refused(tmp_path, names):
    with pytest.raises(ValueError, match=r"a\.zip: holds 1 files whose names stand in it more than once"):
        listed(zip_of(tmp_path / "a.zip", *names))


def test_links_and_pipes_in_a_zip_file_are_left_out(tmp_path):
    zip_of(tmp_path / "a.zip", "a/0.png", "b/0.png", kind=stat.S_IFREG)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        for name, kind in (("a/1.png", stat.S_IFLNK), ("c", stat.S_IFLNK), ("b/2.png", stat.S_IFIFO)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o777) << 16
            archive.writestr(info, "../../etc/passwd")
    names, notes = listed(tmp_path / "a.zip")
    assert names == ["a/0.png", "b/0.png"]
    assert notes == [
        "left out: 2 links in the zip file (a/1.png)",
        "left out: 1 pipes and devices (b/2.png)",
    ]


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_a_zip_file_unpacks_to_is_bounded(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(image_files, "LARGEST_FILE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("a/0.png", b"\0" * ((1 << 20) + 1))
        archive.writestr("a/1.png", png())
    with pytest.raises(UnreadableImageError, match="the file has 1048577 bytes"):
        ZipFiles(tmp_path / "a.zip").open("a/0.png")
    assert ZipFiles(tmp_path / "a.zip").open("a/1.png").size == (16, 16)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_compression_that_python_does_not_know_is_named(tmp_path, num_workers):
    path = zip_of(tmp_path / "a.zip", "a/0.png", "b/0.png", compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        start = 0
        while (start := content.find(magic, start)) >= 0:
            struct.pack_into("<H", content, start + offset, 9)  # deflate64, which Windows writes
            start += 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip: none of its 2 .*a/0\.png \(That compression method"):
        prepare_latents(path, tmp_path / "out", IdentityCodec(3), 16, num_workers=num_workers, device="cpu")


def test_a_cut_or_changed_zip_file_is_one_line(tmp_path):
    content = zip_of(tmp_path / "a.zip", "a/0.png", "b/0.png").read_bytes()
    end = content.rindex(b"PK\5\6")
    messages = []
    for position in (*range(end, end + 20), *range(content.index(b"PK\1\2"), content.index(b"PK\1\2") + 46)):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        (tmp_path / "b.zip").write_bytes(changed)
        try:
            source = open_image_files(tmp_path / "b.zip")
            for name in list_images(source).names:
                source.open(name)
        except (ValueError, OSError) as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
