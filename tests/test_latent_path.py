"""From images to a trained network on their latents, through the programs that a user calls."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import meanflow
from datamodules.fashion_mnist import DEBIAN_FOLDER
from datamodules.store.describe import describe_store
from datamodules.store.reader import LatentStore
from datamodules.store.verify import verify_store
from meanflow.files.remote import sha256_of
from tests import images, photographs
from tests.photographs import needs_photographs

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}


def run(folder: Path, program: str, *arguments: str) -> str:
    """Run to the end; return what was printed."""
    command = [sys.executable, str(ROOT / program), *arguments]
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir(DEBIAN_FOLDER), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_through_codec_training_encoding_verification_flow_and_scores(tmp_path, monkeypatch):
    """60,000 real images; the codec is smaller and trained for a moment only."""
    out = run(
        tmp_path,
        "train.py",
        "experiment=codec_fashion_mnist",
        "network.block_out_channels=[8,8,8]",
        "trainer.max_steps=120",
        "callbacks.ema.decay=0.9",
        "callbacks.codec_folder.num_samples=500",
    )
    psnr = float(re.search(r"with a PSNR of (\S+) dB", out)[1])
    assert psnr > 11  # 9 dB is what a flat gray image has
    out = run(
        tmp_path,
        "prepare.py",
        "task=latents",
        "source=data/fashion_mnist",
        "codec.path=runs/codec_fashion_mnist/codec",
        "codec.batch_size=128",
        "resolution=32",
        "out=data/fashion_mnist_latents",
        "num_workers=0",
    )
    assert "60000 moments of 10 classes, 4 x 8 x 8 float16, normalization identity (4 channels)" in out
    monkeypatch.chdir(tmp_path)  # the codec's path is relative
    assert "60000 samples of 10 classes" in verify_store("data/fashion_mnist_latents")
    out = describe_store("data/fashion_mnist_latents", "pictures/data.png")
    mean, std = ([float(x) for x in re.search(rf"  {key} +(.*)\n", out)[1].split()] for key in ("mean", "std"))
    assert np.abs(mean).max() < 0.1
    assert np.abs(np.subtract(std, 1)).max() < 0.1
    assert (tmp_path / "pictures" / "data.png").is_file()
    run(
        tmp_path,
        "train.py",
        "experiment=fashion_mnist_flow",
        "network.hidden_size=32",
        "network.depth=2",
        "datamodule.batch_size=256",
        "trainer.max_steps=-1",
        "trainer.max_epochs=1",
        "callbacks.sample_grid=null",
    )
    checkpoint = "runs/fashion_mnist_flow/checkpoints/last.ckpt"
    out = run(
        tmp_path,
        "evaluate.py",
        f"ckpt={checkpoint}",
        "datamodule=fashion_mnist_latents",
        "num_samples=2200",
        "sampler.num_steps=4",
        "results=scores.json",
    )
    assert "2200 images" in out
    assert meanflow.load(checkpoint).sample([0, 9], num_steps=2).shape == (2, 1, 32, 32)


@pytest.mark.slow
@needs_photographs
def test_imagenet_killed_three_times_at_random_equals_uninterrupted(tmp_path, monkeypatch):
    images.write_autoencoder(tmp_path / "vae")
    arguments = [
        "task=latents",
        f"source={photographs.FOLDER}",
        "codec.path=vae",
        "resolution=64",
        "batch_size=16",
        "shard_size=150",
        "num_workers=1",
    ]
    start = time.monotonic()
    run(tmp_path, "prepare.py", *arguments, "out=whole")
    seconds = time.monotonic() - start
    for _ in range(3):
        command = [sys.executable, str(ROOT / "prepare.py"), *arguments, "out=killed"]
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        parts = tmp_path / ".killed.partial" / "parts"
        while process.poll() is None and not parts.exists():
            time.sleep(0.01)
        time.sleep(random.uniform(0, seconds / 6))
        process.kill()
        process.wait()
    run(tmp_path, "prepare.py", *arguments, "out=killed")
    whole, killed = ({f.name: sha256_of(f) for f in (tmp_path / name).iterdir()} for name in ("whole", "killed"))
    assert whole == killed
    monkeypatch.chdir(tmp_path)
    verify_store("killed")
    assert "1000, 1 to 1 samples each" in describe_store("killed", "killed.png")
    store = LatentStore(tmp_path / "killed")
    assert store.manifest.class_names[207] == "n02099601"
    assert store.labels.tolist() == list(range(1000))
