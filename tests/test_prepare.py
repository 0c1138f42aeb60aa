"""The entry script, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.verify import verify_store

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


def test_help_lists_the_tasks_and_missing_arguments_get_one_line(tmp_path):
    code, out, _ = prepare(tmp_path, "--help")
    assert code == 0
    assert "task=digits" in out
    assert "task=verify" in out
    assert "task=convert" in out
    message = "error: a value must be given for task; python prepare.py --help lists the tasks\n"
    assert prepare(tmp_path)[::2] == (1, message)
    assert prepare(tmp_path, "task=digits")[::2] == (1, "error: a value must be given for out\n")
    assert list(tmp_path.iterdir()) == []
