"""Results files: complete after every row, with errors instead of gaps."""

import json

from benchmarks.report import Report, formatted


def row(**more):
    return {"benchmark": "train_step", "method": "dmf_mg", "device": "cpu", "time_ratio": 0.51234} | more


def test_both_files_are_written_after_every_row(tmp_path):
    path = tmp_path / "new" / "cpu.json"
    report = Report(path, {"device": "cpu"})
    report.note("nothing is estimated")
    for number in range(2):
        report.add(row(batch_size=number))
        content = json.loads(path.read_text())
        assert len(content["rows"]) == number + 1
        assert path.with_suffix(".md").read_text().count("| dmf_mg |") == number + 1
    assert content["rows"][0]["time_ratio"] == 0.51234
    assert "- nothing is estimated" in path.with_suffix(".md").read_text()
    assert sorted(file.name for file in path.parent.iterdir()) == ["cpu.json", "cpu.md"]


def test_an_error_has_a_column_and_columns_without_values_have_none(tmp_path):
    report = Report(tmp_path / "a.json", {})
    report.add(row())
    report.add(row(mode=None, batch_size=2, time_ratio=None, error="OutOfMemoryError: a | b"))
    lines = report.markdown().splitlines()
    assert "| method | batch | time | error |" in lines
    assert "| dmf_mg |  | 0.512 |  |" in lines
    assert "| dmf_mg | 2 |  | OutOfMemoryError: a / b |" in lines


def test_rows_of_other_benchmarks_have_tables_of_their_own(tmp_path):
    report = Report(tmp_path / "a.json", {})
    report.add({"benchmark": "attention", "backend": "triton", "tflops": 1234.5})
    assert "| backend | tflops |" in report.markdown()
    assert "| triton | 1234 |" in report.markdown()


def test_numbers_have_three_digits():
    assert [formatted(value) for value in (None, 3, 0.12345, 123.456, True)] == ["", "3", "0.123", "123.5", "True"]


def test_a_row_that_is_measured_further_takes_its_own_place(tmp_path):
    report = Report(tmp_path / "a.json", {})
    for mode in ("eager", "blocks"):
        report.add(row(mode=mode, time_ratio=None))
    report.add(row(mode="eager", time_ratio=0.5))
    assert [(a["mode"], a["time_ratio"]) for a in report.rows] == [("eager", 0.5), ("blocks", None)]
