"""Scores of images in memory against the scores that torch-fidelity computes from PNG files of the same images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_fidelity
from PIL import Image
from torch.nn import functional

from tests.metrics.random_inception import write_random_inception

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 40

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create"
    ),  # torch-fidelity's has workers for larger machines
]


def write_images(folder: Path, seed: int, contrast: float) -> Path:
    """Write smooth random pictures of 32 x 32 pixels."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(NUM_IMAGES, 3, 4, 4, generator=generator)
    coarse += 2 * torch.randn(NUM_IMAGES, 3, 1, 1, generator=generator)  # a tint
    fine = functional.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=False)
    for number, pixels in enumerate((128 + contrast * fine).clamp(0, 255).to(torch.uint8)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:06d}.png")
    return folder


def run(program: str, *overrides: str) -> None:
    result = subprocess.run([sys.executable, str(ROOT / program), *overrides], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_same_scores_on_the_same_files(tmp_path):
    """With random weights: what is compared is everything but the weights."""
    weights = write_random_inception(tmp_path / "inception.pth", logit_scale=80)
    generated, real = write_images(tmp_path / "generated", 0, 60), write_images(tmp_path / "real", 1, 50)
    expected = torch_fidelity.calculate_metrics(
        input1=os.fspath(generated),
        input2=os.fspath(real),
        fid=True,
        isc=True,
        kid=True,
        kid_subset_size=NUM_IMAGES,
        feature_extractor_weights_path=os.fspath(weights),
        batch_size=20,
        cuda=False,
        cache=False,
        verbose=False,
    )
    common = (f"features.inception.weights={weights}", "batch_size=20")
    run("prepare.py", "task=stats", f"source={real}", "resolution=32", f"out={tmp_path / 'real.npz'}", *common)
    run(
        "evaluate.py",
        f"images={generated}",
        "protocol=jit",
        "protocol.metrics=[fid,is,kid]",
        f"reference={tmp_path / 'real.npz'}",
        f"results={tmp_path / 'scores.json'}",
        *common,
    )
    found = json.loads((tmp_path / "scores.json").read_text())["metrics"]
    names = {
        "fid": "frechet_inception_distance",
        "is_mean": "inception_score_mean",
        "is_std": "inception_score_std",
        "kid": "kernel_inception_distance_mean",
    }
    assert expected["inception_score_mean"] > 1.1  # the logits tell images apart
    for ours, theirs in names.items():
        assert found[ours] == pytest.approx(expected[theirs], rel=1e-4), ours
