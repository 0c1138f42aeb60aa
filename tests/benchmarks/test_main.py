"""The command that runs all benchmarks. A benchmark that fails or takes too long has a row with the reason."""

import json
import sys

import pytest
from rich.console import Console

from benchmarks import __main__ as main
from benchmarks.report import Report


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path / "a.json", {"device": "cpu"})


def ran(report, code, monkeypatch, limit=60.0, remaining=60.0):
    """Run a part whose process executes some code."""
    popen = main.subprocess.Popen
    monkeypatch.setattr(main.subprocess, "Popen", lambda command, **more: popen([sys.executable, "-c", code], **more))
    part = main.Part("train_step", "a part", ["none"], limit, {"method": "dmf_mg"})
    main.run(part, report, remaining, Console(quiet=True))
    return report.rows


def test_rows_are_taken_as_they_come(report, monkeypatch):
    code = 'print(\'noise\'); print(\'{"method": "dmf_mg", "time_ratio": 0.5}\')'
    assert ran(report, code, monkeypatch) == [{"benchmark": "train_step", "method": "dmf_mg", "time_ratio": 0.5}]


def test_a_process_that_fails_leaves_its_last_words(report, monkeypatch):
    rows = ran(report, "print('{\"a\": 1}', flush=True); raise ValueError('no such size')", monkeypatch)
    assert rows[0]["a"] == 1
    assert rows[1]["error"] == "exit status 1: ValueError: no such size"
    assert rows[1]["method"] == "dmf_mg"


def test_a_process_that_hangs_is_stopped(report, monkeypatch):
    monkeypatch.setattr(main, "LEAST_SECONDS", 0.0)
    (row,) = ran(report, "import time; time.sleep(600)", monkeypatch, limit=0.5)
    assert row["error"] == "stopped after 0.5 s"


def test_nothing_starts_when_the_time_is_spent(report, monkeypatch):
    (row,) = ran(report, "raise SystemExit(1)", monkeypatch, remaining=1.0)
    assert "time for all benchmarks was spent" in row["error"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_method_has_a_part(device):
    parts = main.parts(device)
    assert {part.about.get("method") for part in parts} >= set(main.cases.METHODS)
    assert {part.benchmark for part in parts} >= {"train_step", "sample", "products", "evaluate"}
    chosen = [part for part in parts if main.selected(part, ["dmf_mg"])]
    assert {part.about["method"] for part in chosen} == {"dmf_mg"}


def test_a_machine_is_named_by_its_kind_and_not_by_its_host():
    assert main.machine_name("cpu").startswith("cpu-")
    assert json.dumps(main.machine("cpu")).find("node") == -1
