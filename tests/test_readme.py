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


def test_every_module_of_the_library_is_in_the_tree():
    tree = README.split("## Files")[1]
    for path in (ROOT / "src" / "meanflow").iterdir():
        if not path.name.startswith("__"):
            assert path.name in tree, path.name


def test_the_table_and_its_summary_are_those_of_the_results():
    unchanged = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "results"], cwd=ROOT).returncode == 0
    if not unchanged:
        pytest.skip("results/ holds results of this machine")
    assert with_results(README, ROOT / "results") == README
