"""A printed table of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from meanflow.evaluation.run import Evaluation, Row


def print_rows(evaluation: Evaluation, title: str, console: Console) -> None:
    """Print a table with one row for each sampler, and name the best row.

    A row has the settings that differ between the samplers, and the values.
    """
    rows = evaluation.rows
    settings = distinguishing_settings(rows)
    table = Table(title=title)
    given = rows[0].sampler is None
    values = list(rows[0].metrics)
    if "name" in settings:
        table.add_column("sampler", no_wrap=True)
    numbers = [setting.replace("num_steps", "steps") for setting in settings if setting != "name"]
    names = [name.replace("_", "\n", 1) for name in values]  # two lines, because names are longer than numbers
    for heading in (*numbers, *(() if given else ("NFE",)), *names, "images/s"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [str(flat_settings(row.sampler or {})[key]) for key in settings] + ([] if given else [str(row.nfe)])
        cells += [f"{row.metrics[name]:.4g}" for name in values] + [f"{row.images_per_second:.1f}"]
        table.add_row(*cells, style="bold" if row is evaluation.best and len(rows) > 1 else "")
    if evaluation.real_split is not None:
        blanks = [""] * len(settings)  # the settings after the first one, and NFE
        cells = [f"{evaluation.real_split[name]:.4g}" for name in values]
        table.add_row("two halves of the data", *blanks, *cells, "", style="dim")
    console.print(table)
    if len(rows) > 1:
        winner = flat_settings(evaluation.best.sampler or {})
        chosen = ", ".join(f"{key}={winner[key]}" for key in settings if key != "name")
        best = evaluation.best.metrics[evaluation.headline]
        console.print(f"best: {chosen}: {evaluation.headline} {best:.4g}", highlight=False, soft_wrap=True)


def distinguishing_settings(rows: Sequence[Row]) -> list[str]:
    """Return the settings that a table shows: the name, the number of steps, and settings that differ between rows."""
    samplers = [flat_settings(row.sampler) for row in rows if row.sampler is not None]
    if not samplers:
        return []
    return [
        key
        for key in samplers[0]
        if key in ("name", "num_steps") or len({str(sampler[key]) for sampler in samplers}) > 1
    ]


def flat_settings(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sampler's configuration without nesting: arguments of the sampler, then arguments of its guidance."""
    own = {key: value for key, value in sampler.items() if key != "guidance"}
    return own | {key: value for key, value in sampler.get("guidance", {}).items() if key != "name"}
