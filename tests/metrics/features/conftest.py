"""Fixtures that the tests of feature extractors share."""

import pytest
import torch

from tests.metrics.malicious import Malicious


@pytest.fixture
def malicious_weights(tmp_path):
    """A torch file that executes a command where it can, and the file that is there if it did."""
    torch.save({"weight": torch.zeros(1), "more": Malicious(tmp_path / "marker")}, tmp_path / "malicious.pth")
    return tmp_path / "malicious.pth", tmp_path / "marker"


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (2, 3, 40, 30), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
