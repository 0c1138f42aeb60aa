"""The README tells the truth: its files exist, its targets exist, its table is that of results/."""

import re
import subprocess
from pathlib import Path

import pytest

from scripts.readme_tables import quickstart_table, with_table

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


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_every_experiment_named_exists():
    recipes = README.split("| recipe |")[1].split("\n\n")[0]
    names = set(re.findall(r"experiment=(\w+)", README)) | set(re.findall(r"\| `(\w+)` \|", recipes))
    assert names == {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}


def test_the_table_is_that_of_the_results():
    unchanged = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "results"], cwd=ROOT).returncode == 0
    if not unchanged:
        pytest.skip("results/ holds results of this machine")
    assert with_table(README, "quickstart", quickstart_table(ROOT / "results")) == README


def test_every_picture_exists():
    for path in re.findall(r"\]\((results/[^)]+)\)|src=\"(results/[^\"]+)\"", README):
        assert (ROOT / (path[0] or path[1])).exists(), path
