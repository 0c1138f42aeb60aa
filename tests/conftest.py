import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as train.py does, before torch is imported

import torch

if not torch.cuda.is_available():
    # Triton decides at its import whether kernels run in its interpreter, on tensors in main memory.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tests import tiny


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store of random images."""
    return tiny.write_store(tmp_path_factory.mktemp("stores") / "tiny")
