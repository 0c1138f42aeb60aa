"""The entry script, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.store.verify import verify_store
from tests import images

SCRIPT = Path(__file__).parent.parent / "prepare.py"


def prepare(folder: Path, *arguments: str) -> tuple[int, str, str]:
    run = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=folder, capture_output=True, text=True)
    return run.returncode, run.stdout, run.stderr


@pytest.mark.slow
def test_digits_then_verify_then_damage(tmp_path):
    code, out, err = prepare(tmp_path, "task=digits", "out=digits")
    assert (code, out, err) == (0, "digits: 1797 digits, 8 x 8 pixels, 10 classes\n", "")
    assert "in order: 1797 samples of 10 classes, latents 1 x 8 x 8 float16" in verify_store(tmp_path / "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]

    shard = tmp_path / "digits" / "shard-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    code, out, err = prepare(tmp_path, "task=verify", "store=digits")
    assert (code, out) == (1, "")
    assert err.startswith("error: digits/shard-00000.npy: its sha256 is")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_two_ranks_by_torchrun_and_one_line_for_another_configuration(tmp_path):
    images.write_class_folders(tmp_path / "images", 6)
    images.write_autoencoder(tmp_path / "vae")
    arguments = ["task=latents", "source=images", "codec.path=vae", "out=store", "num_workers=0", "device=cpu"]
    arguments += ["batch_size=1", "shard_size=2"]
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", SCRIPT, *arguments, "resolution=8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "encoding, rank 0 of 2: 4/4 images" in run.stdout
    assert "encoding, rank 1 of 2: 2/2 images" in run.stdout
    assert "store: 6 moments of 3 classes, 4 x 4 x 4 float16, normalization scale_0_18215" in run.stdout
    assert "6 samples of 3 classes" in verify_store(tmp_path / "store")

    code, out, err = prepare(tmp_path, *arguments, "resolution=4")
    message = "error: store: holds resolution=8, asked for is resolution=4; remove it or write elsewhere\n"
    assert (code, out, err) == (1, "", message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "store", "vae"]


def test_help_lists_the_tasks_and_missing_arguments_get_one_line(tmp_path):
    code, out, _ = prepare(tmp_path, "--help")
    assert code == 0
    assert "task=digits" in out
    assert "task=verify" in out
    assert "task=convert" in out
    assert "task=latents" in out
    assert "task=describe" in out
    assert "task=stats" in out
    assert "task=compare" in out
    message = "error: a value must be given for task; python prepare.py --help lists the tasks\n"
    assert prepare(tmp_path)[::2] == (1, message)
    assert prepare(tmp_path, "task=digits")[::2] == (1, "error: a value must be given for out\n")
    assert list(tmp_path.iterdir()) == []
