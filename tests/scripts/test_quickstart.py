"""The quickstart: its chains with stand-ins for the programs, and all of it, shortened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import quickstart

ROOT = Path(__file__).parent.parent.parent

# Programs that note their command lines in the order in which they start.
STAND_IN = """
import sys, time
with open("order.txt", "a") as file:
    file.write(" ".join(sys.argv) + "\\n")
print("a line of the program")
"""


def stand_in_programs(monkeypatch, folder, train=STAND_IN, evaluate=STAND_IN):
    (folder / "train.py").write_text(train)
    (folder / "evaluate.py").write_text(evaluate)
    monkeypatch.setattr(quickstart, "ROOT", folder)
    return quickstart.Chains(1, {kind: folder / kind for kind in quickstart.KINDS}, ["trainer.max_steps=2"])


def test_each_program_starts_after_those_that_it_needs(monkeypatch, tmp_path, capsys):
    chains = stand_in_programs(monkeypatch, tmp_path)
    chains.run()
    programs = [line.split() for line in (tmp_path / "order.txt").read_text().splitlines()]
    order = [(Path(program).stem, first) for program, first, *_ in programs]
    training = {kind: order.index(("train", f"experiment=quickstart_{kind}")) for kind in quickstart.KINDS}
    evaluation = {kind: order.index(("evaluate", f"ckpt={chains.checkpoint(kind)}")) for kind in quickstart.KINDS}
    assert len(order) == 6
    assert training["flow"] < training["dmf"] < evaluation["dmf"]
    assert training["flow"] < evaluation["flow"]
    assert training["imf"] < evaluation["imf"]
    assert f"init_from={chains.checkpoint('flow')}" in programs[training["dmf"]]
    assert all("seed=1" in arguments for arguments in programs)
    assert "train_imf     | a line of the program" in capsys.readouterr().out.splitlines()


def test_the_cost_table_has_each_part(monkeypatch, tmp_path):
    chains = stand_in_programs(monkeypatch, tmp_path)
    chains.run()
    costs = quickstart.cost_table(chains.costs, wall_time=3.0)
    assert set(costs) == {"seconds", "processor_seconds"}
    for table in costs.values():
        assert set(table) == {"pretrain", "finetune", "imf", "evaluate", "all"}
        assert min(table.values()) > 0
    assert costs["seconds"]["all"] == 3.0


def test_a_failure_ends_the_other_chain(monkeypatch, tmp_path):
    train = 'import sys, time\nif "experiment=quickstart_imf" in sys.argv: sys.exit(3)\ntime.sleep(600)\n'
    chains = stand_in_programs(monkeypatch, tmp_path, train)
    with pytest.raises(SystemExit, match="exit status 3"):
        chains.run()
    assert chains.costs == {}


def test_threads_of_a_program_are_those_of_the_environment(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert int(quickstart.environment()["OMP_NUM_THREADS"]) >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert quickstart.environment()["OMP_NUM_THREADS"] == "7"


@pytest.mark.slow
def test_the_chains_write_results_and_pictures(tmp_path):
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
    parts = {"pretrain", "finetune", "imf", "evaluate", "all"}
    assert {key: set(value) for key, value in content.items() if isinstance(value, dict)} == {
        "teacher": {"1", "4", "64"},
        "dmf": {"1", "2", "4"},
        "imf": {"1", "2", "4"},
        "seconds": parts,
        "processor_seconds": parts,
    }
    assert 0.2 < content["real_split"] < 0.4
    assert (tmp_path / "runs" / "quickstart_seed3_dmf" / "samples" / "step_00000030.png").exists()
