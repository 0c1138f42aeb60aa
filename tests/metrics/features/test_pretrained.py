"""Extractors with weights, tested on an extractor that multiplies pixels by its weights."""

import hashlib

import pytest
import torch
from torch import nn

from meanflow.metrics.features import ImageFeatures
from meanflow.metrics.features.pretrained import PretrainedFeatures


class Mean(PretrainedFeatures):
    name = "mean"

    def published_weights(self):
        raise FileNotFoundError("pip install something")

    def build(self, weights):
        network = nn.Linear(3, 2, bias=False)
        network.load_state_dict(weights)
        return network

    def extract(self, images):
        return ImageFeatures(self.network(images.float().mean(dim=(2, 3))))


@pytest.fixture
def file(tmp_path):
    torch.save({"weight": torch.eye(3)[:2]}, tmp_path / "mean.pth")
    return tmp_path / "mean.pth"


def test_weights_are_loaded_at_first_use_and_hashed_once(file, monkeypatch):
    extractor = Mean(file)
    assert "network" not in vars(extractor)
    image = torch.tensor([[[[1]], [[2]], [[3]]]], dtype=torch.uint8)
    assert extractor(image).pooled.tolist() == [[1, 2]]
    content = file.read_bytes()
    assert extractor.weights_sha256() == hashlib.sha256(content).hexdigest()
    file.unlink()
    assert extractor.weights_sha256() == hashlib.sha256(content).hexdigest()
    assert extractor(image[:, :1]).pooled.tolist() == [[1, 1]]


def test_missing_weights_say_which_key_to_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pip install something \(features\.mean\.weights=FILE names another"):
        Mean().prepare()
    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.pth \(features\.mean\.weights=FILE"):
        Mean(tmp_path / "none.pth").weights_sha256()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}])
def test_what_is_no_state_dict_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no weights: it must be a mapping of names to tensors"):
        Mean(tmp_path / "other.pth").prepare()


def test_a_truncated_file_is_named(file):
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"mean\.pth is truncated"):
        Mean(file).prepare()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 2, 2), "images must be uint8"),
        (torch.zeros(1, 2, 2, 2, dtype=torch.uint8), r"number of channels in \[1, 3\], got 2"),
    ],
)
def test_bad_images_are_refused(file, images, message):
    with pytest.raises(ValueError, match=message):
        Mean(file)(images)
