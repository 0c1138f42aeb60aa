import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as train.py does, before torch is imported

from tests import tiny


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store of random images."""
    return tiny.write_store(tmp_path_factory.mktemp("stores") / "tiny")
