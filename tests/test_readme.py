"""The README lists the files that exist, and its table holds the numbers of results/."""

import re
import subprocess
from pathlib import Path

import pytest

from scripts.readme_tables import with_results

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_file_of_the_tree_exists():
    names = re.findall(r"(?<!\S)([\w./-]+(?:\.py|\.md|/))(?!\S)", README.split("## Files")[1].split("```")[1])
    assert len(names) > 30
    for name in names:
        assert any(
            (ROOT / folder / name).exists()
            for folder in (".", "src/meanflow", "conf", "tests", "datamodules", "src/meanflow/metrics")
        ), name


def test_every_file_and_folder_is_in_the_tree():
    tree = README.split("## Files")[1].split("```")[1]
    names = {name.rstrip("/") for name in re.findall(r"(?<!\S)[\w/]+(?:\.py|/)(?!\S)", tree)}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {path.split("/")[0] for path in tracked if "/" in path or path.endswith(".py")} - {"src"}
    library = {path.split("/")[2] for path in tracked if path.startswith("src/meanflow/")}
    expected = {name for name in top | library if not name.startswith((".", "__"))}
    assert expected <= names, expected - names


def test_the_table_and_its_summary_are_those_of_the_results():
    unchanged = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "results"], cwd=ROOT).returncode == 0
    if not unchanged:
        pytest.skip("results/ holds results of this machine")
    assert with_results(README, ROOT / "results") == README
