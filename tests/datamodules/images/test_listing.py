import json

import pytest

from datamodules.images.files import PixelStore, open_image_files
from datamodules.images.listing import list_images, list_unlabeled
from tests import images, tiny
from tests.datamodules.small_store import write_moments


@pytest.mark.parametrize("kind", ["folder", "zip", "zip in a folder"])
@pytest.mark.parametrize("layout", ["train", "classes", "flat"])
def test_every_layout_is_found_in_a_folder_and_in_a_zip_file(tmp_path, kind, layout):
    folder = tmp_path / "images"
    names = (images.write_flat if layout == "flat" else images.write_class_folders)(folder)
    (folder / names[0]).with_name("notes.txt").write_text("no image")
    (folder / names[0]).with_name("._hidden.png").write_text("no image")
    if layout == "classes":
        folder /= "train"
        names = [name.removeprefix("train/") for name in names]
    elif layout == "train":
        (folder / "val" / "n0").mkdir(parents=True)
        images.picture(99).save(folder / "val" / "n0" / "other.png")
    source, prefix = folder, ""
    if kind != "folder":
        prefix = "top/" if kind == "zip in a folder" else ""
        source = images.write_zip(folder, tmp_path / "images.zip", prefix)
    files = open_image_files(source)
    listing = list_images(files)
    assert listing.names == [prefix + name for name in names]
    assert list_unlabeled(files).names == listing.names
    assert listing.num_classes == 3
    expected = [int(name.split("/")[-1].removeprefix("img")[:-4]) % 3 for name in names]
    assert listing.labels.tolist() == expected
    assert listing.class_names == (() if layout == "flat" else ("n0", "n1", "n2"))
    number = int(names[4].split("/")[-1].removeprefix("img")[:-4])
    assert files.open(listing.names[4]).tobytes() == images.picture(number).tobytes()


def test_a_store_of_pixels_is_a_source(tmp_path):
    files = open_image_files(tiny.write_store(tmp_path / "store", 6))
    assert isinstance(files, PixelStore)
    listing = list_images(files)
    assert listing.names == ["0", "1", "2", "3", "4", "5"]
    assert listing.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert files.open("3").mode == "L"
    write_moments(tmp_path / "moments")
    with pytest.raises(ValueError, match=r"holds latents of the codec autoencoder_kl; only pixels \(identity\)"):
        open_image_files(tmp_path / "moments")


def fails(path, kind, message):
    with pytest.raises(kind, match=message) as caught:
        list_images(open_image_files(path))
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_source_is_one_line(tmp_path):
    fails(tmp_path / "nowhere", FileNotFoundError, "nowhere: there is no such folder or zip file")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", ValueError, "there are no images in it")
    names = images.write_class_folders(tmp_path / "a")
    (tmp_path / "a" / "train" / "n17").mkdir()
    fails(tmp_path / "a", ValueError, r"the class folder train/n17 \(one of 1\) holds no images")
    fails(images.write_zip(tmp_path / "a", tmp_path / "a.zip"), ValueError, r"a\.zip: the class folder train/n17")
    images.picture(1).save(tmp_path / "a" / "train" / "stray.png")
    fails(tmp_path / "a", ValueError, r"train/stray\.png \(one of 1\) lies in no class folder")

    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    fails(tmp_path / "cut.zip", ValueError, "must be a folder or a zip file")
    fails(tmp_path / "a" / names[0], ValueError, "must be a folder or a zip file")

    images.write_flat(tmp_path / "flat")
    images.picture(1).save(tmp_path / "flat" / "more.png")
    fails(tmp_path / "flat", ValueError, r"dataset\.json: more\.png \(one of 1\) has no label in it")
    (tmp_path / "flat" / "more.png").unlink()
    (tmp_path / "flat" / "00001" / "img00000005.png").unlink()
    fails(tmp_path / "flat", FileNotFoundError, r"dataset\.json: 00001/img00000005\.png \(one of 1\) does not exist")
    (tmp_path / "flat" / "dataset.json").write_text(json.dumps({"labels": [["a.png", 1], ["a.png", 2]]}))
    fails(tmp_path / "flat", ValueError, "lists 1 files more than once")
    (tmp_path / "flat" / "dataset.json").write_text(json.dumps({"labels": [["a.png", -1]]}))
    fails(tmp_path / "flat", ValueError, r"labels must be a list of \[file, integer\]")
