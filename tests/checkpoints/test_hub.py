"""Addresses on the hub, with a local cache and without a network."""

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import meanflow
from meanflow.checkpoints import load_weights, save_folder
from meanflow.checkpoints.hub import local_path
from tests import tiny
from tests.checkpoints import released

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache as the hub's library keeps it, of the repository somebody/models; no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--somebody--models"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_file_in_the_cache_opens(cache):
    weights = released.imf_weights()
    (cache / "sub").mkdir()
    torch.save(weights, cache / "sub" / "imf.pth")
    assert len(load_weights("hf://somebody/models/sub/imf.pth")) == len(weights)
    assert meanflow.load("hf://somebody/models").network.config["num_classes"] == 5


def test_an_exported_folder_in_the_cache_opens(cache):
    pipeline = tiny.flow_pipeline()
    for file in save_folder(pipeline, cache.parent / "exported").iterdir():
        (cache / file.name).write_bytes(file.read_bytes())
    (cache / "README.md").write_text("text")
    assert meanflow.load("hf://somebody/models").config == pipeline.config


def test_a_download_is_asked_for_and_used(tmp_path, monkeypatch):
    asked = []

    def download(repo, file, local_files_only=False):
        if local_files_only:
            raise FileNotFoundError
        asked.append((repo, file))
        torch.save(released.imf_weights(), tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: ["README.md", "imf.pth"])
    assert meanflow.load("hf://somebody/models").network.config["depth"] == 3
    assert asked == [("somebody/models", "imf.pth")]


def test_without_a_network_the_message_says_what_to_fetch(cache):
    with pytest.raises(FileNotFoundError) as caught:
        meanflow.load("hf://somebody/models/dmf.pt")
    message = str(caught.value)
    assert "\n" not in message
    assert "hf://somebody/models/dmf.pt is not in the local cache and could not be downloaded" in message
    assert "`hf download somebody/models dmf.pt --local-dir DIR`" in message
    with pytest.raises(FileNotFoundError, match="`hf download else/where --local-dir DIR`"):
        meanflow.load("hf://else/where")


def test_an_address_must_be_clear(cache):
    with pytest.raises(ValueError, match="hf://somebody must be hf://org/repo or hf://org/repo/file"):
        meanflow.load("hf://somebody")
    for name in ("a.pt", "b.pt"):
        (cache / name).touch()
    with pytest.raises(ValueError, match=r"it has \['a\.pt', 'b\.pt'\]: name one, as hf://somebody/models/a\.pt"):
        meanflow.load("hf://somebody/models")
    assert local_path("runs/last.ckpt").name == "last.ckpt"
