"""Write the results tables of README.md from results/*.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = (
    ("flow, Euler", "teacher", "1"),
    ("flow, Euler", "teacher", "4"),
    ("flow, Euler", "teacher", "64"),
    ("Decoupled MeanFlow", "dmf", "1"),
    ("Decoupled MeanFlow", "dmf", "2"),
    ("Decoupled MeanFlow", "dmf", "4"),
    ("improved MeanFlow", "imf", "1"),
    ("improved MeanFlow", "imf", "2"),
    ("improved MeanFlow", "imf", "4"),
)


def quickstart_table(results: Path) -> str:
    """Return a Markdown table of all quickstart results in a folder, one column per seed."""
    files = {0: results / "quickstart.json"}
    files |= {int(path.stem.removeprefix("quickstart_seed")): path for path in results.glob("quickstart_seed*.json")}
    runs = {seed: json.loads(files[seed].read_text()) for seed in sorted(files)}
    lines = [
        "| model | NFE | " + " | ".join(f"seed {seed}" for seed in runs) + " |",
        "|---|---:|" + "---:|" * len(runs),
    ]
    for title, key, steps in ROWS:
        values = " | ".join(f"{run[key][steps]:.3f}" if key in run else "not run" for run in runs.values())
        lines.append(f"| {title} | {steps} | {values} |")
    values = " | ".join(f"{run['real_split']:.3f}" for run in runs.values())
    lines.append(f"| two halves of the data | | {values} |")
    return "\n".join(lines)


def quickstart_summary(results: Path) -> str:
    """Return sentences that compare flow maps and flow by their network evaluations, for seed 0."""
    run = json.loads((results / "quickstart.json").read_text())
    flow, dmf, imf = (run[key] for key in ("teacher", "dmf", "imf"))
    return (
        f"With one network evaluation, DMF scores {dmf['1']:.2f} and iMF scores {imf['1']:.2f} (seed 0).\n"
        f"The flow scores {flow['1']:.2f} with one network evaluation, {flow['4']:.2f} with four and "
        f"{flow['64']:.2f} with 64."
    )


def with_results(text: str, results: Path) -> str:
    """Return the text of README.md with table and summary of the results in a folder."""
    text = with_table(text, "quickstart", quickstart_table(results))
    return with_table(text, "summary", quickstart_summary(results))


def with_table(text: str, name: str, table: str) -> str:
    """Return the text with ``table`` in place of the lines between the markers of ``name``.

    Raises:
        ValueError: If the text lacks the markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no markers {begin} ... {end}")
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_results(readme.read_text(), ROOT / "results"))
