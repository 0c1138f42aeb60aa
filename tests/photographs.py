"""Real photographs, one for each ImageNet class, on machines that have them."""

import os
from pathlib import Path

import pytest

# <wnid>/<name>.JPEG in it
FOLDER = Path(
    os.environ.get("MEANFLOW_IMAGENET_SAMPLE")
    or Path(__file__).parent.parent.parent / "shared" / "data" / "imagenet_sample" / "train"
)
needs_photographs = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason="no photographs: set MEANFLOW_IMAGENET_SAMPLE to a folder with <wnid>/<name>.JPEG of each ImageNet class",
)
