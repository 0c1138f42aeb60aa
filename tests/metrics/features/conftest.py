"""What the tests of feature extractors share."""

import os

import pytest
import torch


class Malicious:
    """Makes a folder if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.path),)


@pytest.fixture
def malicious_weights(tmp_path):
    """A torch file that executes code where it can, and the folder that is then there."""
    torch.save({"weight": torch.zeros(1), "more": Malicious(tmp_path / "touched")}, tmp_path / "malicious.pth")
    return tmp_path / "malicious.pth", tmp_path / "touched"


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (2, 3, 40, 30), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
