"""Data sets of the official projects."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.loading.dataset import LatentDataset
from datamodules.preparation.official import DMFLatents, IMFLatents, convert_to_store, open_official
from datamodules.store.reader import LatentStore
from meanflow.codecs.normalization import IMF, SCALE_0_18215

FORMATS = Path(__file__).parents[2] / "golden" / "data" / "formats"
DMF, PT = FORMATS / "dmf_vae_sd" / "data", FORMATS / "imf_pt" / "data"


@pytest.fixture
def copies(tmp_path):
    shutil.copytree(DMF, tmp_path / "dmf")
    shutil.copytree(PT, tmp_path / "imf")
    return tmp_path


def test_each_kind_is_recognised():
    for path, cls in ((DMF, DMFLatents), (DMF / "vae-sd", DMFLatents), (PT, IMFLatents), (PT / "train", IMFLatents)):
        latents = open_official(path)
        assert type(latents) is cls
        assert len(latents) == 4


@pytest.mark.parametrize(("source", "normalization"), [(DMF, SCALE_0_18215), (PT, IMF)])
def test_a_store_holds_the_same_numbers(tmp_path, source, normalization):
    latents = open_official(source)
    line = convert_to_store(source, tmp_path / "store", dtype="float32", batch_size=3)
    assert line == f"{tmp_path / 'store'}: 4 latents of {type(latents).__name__}, 1000 classes, float32"
    store = LatentStore(tmp_path / "store")
    store.verify()
    mean, std, y = store.gather(np.arange(4))
    assert torch.equal(torch.cat([mean, std], dim=1), torch.stack([latents[i][0] for i in range(4)]))
    assert y.tolist() == [latents[i][1] for i in range(4)]
    assert store.manifest.normalization == normalization
    assert store.manifest.codec["path"] == "stabilityai/sd-vae-ft-mse"
    assert store.manifest.resolution == 64


def test_source_images_are_kept(tmp_path):
    convert_to_store(DMF, tmp_path / "store")
    batch = LatentDataset(LatentStore(tmp_path / "store"), images=True)[2]
    assert torch.equal(batch.image[0], DMFLatents(DMF).image(2))


def test_older_files_with_a_batch_axis_are_read(copies):
    file = copies / "dmf" / "vae-sd" / "00000" / "img-mean-std-00000000.npy"
    array = np.load(file)
    np.save(file, array[None])
    assert torch.equal(DMFLatents(copies / "dmf")[0][0], torch.from_numpy(array))


def test_what_is_wrong_is_named_and_nothing_is_written(copies, tmp_path):
    def fails(kind, message, source, **arguments):
        with pytest.raises(kind, match=message):
            convert_to_store(copies / source, tmp_path / "store", **arguments)
        assert {path.name for path in tmp_path.iterdir()} <= {"dmf", "imf"}

    fails(FileNotFoundError, "is no official data set", ".")
    fails(ValueError, r"the label must lie in \[0, 1\)", "imf", num_classes=1)

    file = copies / "imf" / "train" / "00000002.pt"
    content = torch.load(file, weights_only=True)
    torch.save({"image": content["image"]}, file)
    fails(ValueError, r"00000002\.pt must hold the tensors image and label", "imf")
    torch.save(content | {"image": content["image"].half()}, file)
    fails(ValueError, r"00000002\.pt must hold float32 \(2 C, h, w\), got torch\.float16", "imf")
    torch.save(content | {"image": content["image"][:, :4]}, file)
    fails(ValueError, r"00000002\.pt: its latent is not 8 x 8", "imf")
    torch.save(content | {"more": Path("a")}, file)
    fails(ValueError, r"00000002\.pt is refused: it holds \S*Path", "imf")

    file = copies / "dmf" / "vae-sd" / "00000" / "img-mean-std-00000001.npy"
    array = file.read_bytes()
    file.write_bytes(array[:200])
    fails(ValueError, r"img-mean-std-00000001\.npy: truncated, or not a \.npy file", "dmf")
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    fails(ValueError, r"img-mean-std-00000001\.npy: truncated, or not a \.npy file", "dmf")
    file.unlink()
    fails(FileNotFoundError, r"img-mean-std-00000001\.npy \(one of 1\) is not both on disk and in dataset\.json", "dmf")
    file.write_bytes(array)

    (copies / "dmf" / "images" / "00000" / "img00000003.png").unlink()
    fails(ValueError, "images has 3 images for 4 latents", "dmf")
    labels = copies / "dmf" / "vae-sd" / "dataset.json"
    labels.write_text(json.dumps({"labels": 3}))
    fails(ValueError, r"labels must be a list of \[file, integer\]", "dmf")
    labels.write_text("{")
    fails(ValueError, "damaged, or without labels", "dmf")
    labels.unlink()
    fails(FileNotFoundError, "is no official data set", "dmf")
