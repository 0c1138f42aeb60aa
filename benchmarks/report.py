"""Results on disk: a JSON file and the same as a Markdown table, rewritten whenever a row is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meanflow.files.atomic import atomic_file

Row = dict[str, Any]

TRAINING_COLUMNS = {
    "method": "method",
    "network": "network",
    "resolution": "pixels",
    "mode": "mode",
    "batch_size": "batch",
    "flops_forwards": "forwards",
    "baseline_flops_forwards": "official",
    "flops_ratio": "ratio",
    "saved_bytes_ratio": "saved bytes",
    "peak_bytes_ratio": "peak memory",
    "time_ratio": "time",
    "step_seconds": "s/step",
    "images_per_second": "images/s",
    "baseline_images_per_second": "official",
    "mfu": "MFU",
}
SAMPLING_COLUMNS = {
    "network": "network",
    "mode": "mode",
    "precision": "precision",
    "batch_size": "batch",
    "num_steps": "steps",
    "decoded": "decoded",
    "images_per_second": "images/s",
    "latency_seconds": "latency s",
}
# Keys that identify a row of a training step. The row is printed again when more of its values have been measured.
IDENTITY = ("method", "network", "resolution", "batch_size", "mode")
ALL_COLUMNS: dict[str, str] = {}  # all keys that the rows have
TABLES = {
    "train_step": ("Training step: losses and gradients, ours / official", TRAINING_COLUMNS),
    "sample": ("Sampling", SAMPLING_COLUMNS),
    "attention": ("Attention", ALL_COLUMNS),
    "products": ("Matrix products of primal and tangent: one stacked product / two", ALL_COLUMNS),
    "evaluate": ("Evaluation: in a stream, and by way of PNG files", ALL_COLUMNS),
}


class Report:
    """A results file that is complete after every row.

    Args:
        path: Path of the JSON file. The table goes to the same folder.
        machine: Description of the machine, written to both.
    """

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self.path = path
        self.machine = machine
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def add(self, row: Row) -> None:
        """Append a row, or put it in the place of an earlier one about the same, and write."""
        same = [number for number, other in enumerate(self.rows) if identity(other) == identity(row)]
        if same:
            self.rows[same[0]] = row
        else:
            self.rows.append(row)
        self.write()

    def note(self, text: str) -> None:
        """Append a remark and write."""
        self.notes.append(text)
        self.write()

    def write(self) -> None:
        """Write both files; each appears complete or not at all."""
        content = {"machine": self.machine, "notes": self.notes, "rows": self.rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (self.path, json.dumps(content, indent=2) + "\n"),
            (self.path.with_suffix(".md"), self.markdown()),
        ):
            with atomic_file(path) as file:
                file.write(text.encode())

    def markdown(self) -> str:
        """Return the tables of all kinds of rows."""
        lines = [f"# Benchmark: {self.path.stem}", ""]
        lines += [f"- {key}: {value}" for key, value in self.machine.items()]
        lines += [f"- {note}" for note in self.notes]
        for benchmark, (title, columns) in TABLES.items():
            chosen = [row for row in self.rows if row["benchmark"] == benchmark]
            if chosen:
                lines += ["", f"## {title}", "", *table(chosen, columns or all_columns(chosen))]
        return "\n".join(lines) + "\n"


def identity(row: Row) -> tuple[Any, ...]:
    """Return the values that identify a row."""
    return tuple(row.get(key) for key in IDENTITY) if row["benchmark"] == "train_step" else (id(row),)


def all_columns(rows: list[Row]) -> dict[str, str]:
    """Return every key of the rows as a column of its own name."""
    return {key: key for row in rows for key in row if key not in ("benchmark", "error")}


def table(rows: list[Row], columns: dict[str, str]) -> list[str]:
    """Return the lines of a Markdown table; columns that no row fills are left out, errors stand last."""
    used = [key for key in columns if any(row.get(key) is not None for row in rows)]
    names = [columns[key] for key in used]
    if any("error" in row for row in rows):
        used, names = [*used, "error"], [*names, "error"]
    body = ["| " + " | ".join(formatted(row.get(key)) for key in used) + " |" for row in rows]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(used), *body]


def formatted(value: Any) -> str:
    """Return a value with three significant digits, or nothing for none."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/")
