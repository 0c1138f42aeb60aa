"""Files by path and address: the copy in a cache, the check of its sha256, and the error without a network."""

import hashlib
import re
from pathlib import Path
from urllib.error import URLError

import huggingface_hub
import pytest
import torch

from meanflow.files.remote import local_file, sha256_of

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = f"https://example.org/releases/weights-{SHA256[:8]}.pth?raw=1"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def web(tmp_path, monkeypatch):
    """torch's cache in a folder of the test, and what the web sends."""
    sent = {"content": CONTENT, "requests": 0}

    def urlopen(request):
        sent["requests"] += 1
        if isinstance(sent["content"], Exception):
            raise sent["content"]
        return Answer(sent["content"])

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    return sent


class Answer:
    def __init__(self, content):
        self.parts = [content, b""]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def info(self):
        return self

    def get_all(self, name):
        return None

    def read(self, size):
        return self.parts.pop(0)


def test_a_path_is_itself_if_its_hash_is_right(file):
    assert local_file(file) == local_file(str(file), SHA256) == local_file(file, SHA256[:6].upper()) == file
    assert sha256_of(file) == SHA256
    with pytest.raises(
        ValueError, match=rf"weights\.pth is damaged or another file .*: its sha256 is {SHA256}, not 00"
    ):
        local_file(file, "00")


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*none\.pth"):
        local_file(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="no file at"):
        local_file(tmp_path)


@pytest.mark.parametrize("address", ["http://example.org/a.pth", "s3://bucket/a.pth"])
def test_other_addresses_are_refused(address):
    with pytest.raises(ValueError, match=r"a file must be a path, hf://org/repo/file or https://\.\.\., got"):
        local_file(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://org", "hf://org must be hf://org/repo or"),
        ("hf://org/repo", "hf://org/repo names no file"),
        ("https://example.org/", "https://example.org/ names no file"),
    ],
)
def test_an_address_must_name_a_file(address, message):
    with pytest.raises(ValueError, match=message):
        local_file(address)


def test_the_web_is_asked_once(web, tmp_path):
    path = local_file(URL)
    assert path == tmp_path / "hub" / "checkpoints" / f"weights-{SHA256[:8]}.pth"
    assert path.read_bytes() == CONTENT
    assert local_file(URL) == path
    assert web["requests"] == 1


def test_another_content_from_the_web_is_refused_and_not_kept(web, tmp_path):
    web["content"] = b"something else"
    with pytest.raises(ValueError, match=rf"the file that {re.escape(URL)} sends is damaged or another file"):
        local_file(URL)
    with pytest.raises(ValueError, match="is damaged or another file"):
        local_file("https://example.org/plain.pth", SHA256)
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []


def test_a_damaged_copy_is_named(web):
    path = local_file(URL)
    path.write_bytes(CONTENT[:3])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged or another file \(delete it\)"):
        local_file(URL)


def test_without_a_network_the_message_says_where_to_put_the_file(web, tmp_path):
    web["content"] = URLError("no route to host")
    with pytest.raises(FileNotFoundError) as caught:
        local_file(URL)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{URL} is not in the local cache and could not be downloaded (<urlopen error no route to host>)" in message
    assert f"put it here as {tmp_path}/hub/checkpoints/weights-{SHA256[:8]}.pth" in message


def test_the_hub_is_asked_for_what_its_cache_lacks(file, monkeypatch):
    asked = []

    def download(repo, name, local_files_only=False):
        asked.append((repo, name, local_files_only))
        if local_files_only:
            raise FileNotFoundError
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert local_file("hf://org/repo/sub/weights.pth", SHA256) == Path(file)
    assert asked == [("org/repo", "sub/weights.pth", True), ("org/repo", "sub/weights.pth", False)]
    with pytest.raises(ValueError, match="is damaged or another file"):
        local_file("hf://org/repo/sub/weights.pth", "00")
