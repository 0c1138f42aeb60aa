"""The quickstart, shortened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_chain_writes_results_and_pictures(tmp_path):
    command = [sys.executable, "scripts/quickstart.py", "--seed", "3", "--max-steps", "30"]
    result = subprocess.run(
        [*command, "--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    names = {"quickstart_seed3.json", "quickstart_seed3_samples.png", "quickstart_seed3_steps.png"}
    assert {path.name for path in (tmp_path / "results").iterdir()} == names
    content = json.loads((tmp_path / "results" / "quickstart_seed3.json").read_text())
    assert {key: set(value) for key, value in content.items() if isinstance(value, dict)} == {
        "teacher": {"1", "4", "64"},
        "dmf": {"1", "2", "4"},
        "imf": {"1", "2", "4"},
        "seconds": {"pretrain", "finetune", "imf", "evaluate"},
    }
    assert 0.2 < content["real_split"] < 0.4
    assert (tmp_path / "runs" / "quickstart_seed3_dmf" / "samples" / "step_00000030.png").exists()
