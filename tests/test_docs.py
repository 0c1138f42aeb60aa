"""Every command, name, path and link of README.md and docs/ is right; docs/log.md is a record and is left alone."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

import meanflow
import train
from meanflow.checkpoints.folder import save_folder
from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity
from meanflow.models import DMFTransformer
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowMapEuler
from tests import tiny

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name != "log.md"
}
PROGRAMS = ("train.py", "evaluate.py", "prepare.py")
# Programs of a shell that the pages name and that no test can try.
OTHER_PROGRAMS = ("pip", "git", "apt", "cd")
# Groups whose options stand under an objective, "guidance@objective.guidance=none", or in a list, "features=[a,b]".
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
PLACEHOLDER = re.compile(r"[A-Z]+\d?")


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def words(line: str) -> list[str]:
    """Split a command line and drop its comment."""
    return shlex.split(re.split(r"\s+#\s", line)[0])


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Return (page, words of a command) for every command of every page."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page, tuple(words(line))) for line in lines if line.strip() and not line.startswith("#")]
    return found


def without_launcher(command: tuple[str, ...]) -> tuple[str, ...]:
    """Drop the variables, ``torchrun``, ``srun`` or ``sbatch`` in front of a Python program."""
    while command and re.fullmatch(r"[A-Z_]+=\S*", command[0]):
        command = command[1:]
    if command[0] == "sbatch":
        return without_launcher(tuple(words(command[command.index("--wrap") + 1])))
    if command[0] == "torchrun":
        start = next(i for i, word in enumerate(command) if word.endswith(".py"))
        return ("python", *command[start:])
    if command[0] == "srun":
        return command[command.index("python") :]
    return ("python", *command[1:]) if command[0].endswith("/python") else command


COMMANDS = [(page, without_launcher(command)) for page, command in commands()]


def of_program(*names: str) -> list[pytest.param]:
    """Return the commands that start one of the project's programs, as parameters of a test."""
    return [
        pytest.param(command[1], command[2:], id=f"{page}: {' '.join(command[1:])}")
        for page, command in COMMANDS
        if command[0] == "python" and command[1] in names
    ]


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


@cache
def composed(program: str, arguments: tuple[str, ...]) -> DictConfig:
    """Compose the configuration of a command line; of a sweep, the one of its first job."""
    overrides = [word for word in arguments if not word.startswith("-") and word not in ("job", "...")]
    # The launcher is a package of the extra "slurm", which need not be installed here.
    overrides = [word for word in overrides if not word.startswith(("hydra/launcher=submitit_", "hydra.launcher."))]
    if program == "train.py":
        overrides.append("output_dir=somewhere")
    parsed = OverridesParser.create().parse_overrides(overrides)
    jobs = [
        f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else o.input_line
        for o in parsed
    ]
    return compose(program.removesuffix(".py"), jobs)


def test_pages_hold_commands():
    assert len(COMMANDS) > 50
    assert {page for page, _ in COMMANDS} >= {"README.md", "docs/data.md", "docs/evaluation.md", "docs/training.md"}


@pytest.mark.parametrize(("program", "arguments"), of_program(*PROGRAMS))
def test_every_command_composes(program, arguments):
    config = composed(program, arguments)
    if "--help" in arguments:
        return
    if program == "evaluate.py":  # the data are opened only if the protocol needs them
        assert (config.ckpt is None) != (config.images is None)
        config = OmegaConf.masked_copy(config, [key for key in config if key != "datamodule"])
    if "..." not in arguments and "--cfg" not in arguments:
        assert not OmegaConf.missing_keys(config)
        OmegaConf.to_container(config, resolve=True)
        if program == "train.py":
            train.require_values(config)


@pytest.mark.parametrize("command", sorted({command for _, command in COMMANDS}), ids=" ".join)
def test_every_command_starts_something_that_exists(command, monkeypatch, capsys):
    program, *arguments = command
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(arguments) <= targets
    elif program == "python" and arguments[0] == "-m":
        if arguments[1] == "pytest":
            assert all((ROOT / path).exists() for path in arguments[2:])
            return
        shows_help(lambda: runpy.run_module(arguments[1], run_name="__main__"), arguments[1], monkeypatch, capsys)
    elif program == "python" and arguments[0] not in PROGRAMS:
        shows_help(lambda: runpy.run_path(str(ROOT / arguments[0]), run_name="__main__"), "", monkeypatch, capsys)
    elif program == "python":
        assert (ROOT / arguments[0]).exists()
    else:
        assert program in (*OTHER_PROGRAMS, ".ci/run"), f"a page names {program}"


def shows_help(run, name, monkeypatch, capsys):
    """Check that a program answers ``--help``."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    # A module that another test has imported would be run a second time; a package stays, its __main__ does not.
    is_package = hasattr(sys.modules.get(name), "__path__")
    monkeypatch.delitem(sys.modules, f"{name}.__main__" if is_package else name, raising=False)
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code in (None, 0)
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_every_option_named_exists(page):
    found = re.findall(rf"(?<![\w.])({'|'.join(GROUPS)})(?:@[\w.]+)?=([\w\[\],]+)", PAGES[page])
    for group, value in found:
        for option in value.strip("[]").split(","):
            if not PLACEHOLDER.fullmatch(option) and option not in ("", "null"):
                assert (CONF / group / f"{option}.yaml").exists(), f"{group}={option}"


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """All dotted keys of the configurations that the commands compose, and all groups."""
    found = set(GROUPS)

    def collect(tree: Any, prefix: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                found.add(f"{prefix}{key}")
                collect(value, f"{prefix}{key}.")

    for _, command in COMMANDS:
        if command[1:2] and command[1] in PROGRAMS:
            collect(OmegaConf.to_container(composed(command[1], command[2:])), "")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_key_named_exists(page, keys):
    named = re.findall(r"`([a-z][\w.]*)(?:@[\w.]+)?=[^`]*`", PAGES[page])
    named += re.findall(rf"`((?:{'|'.join(sorted({key.split('.')[0] for key in keys}))})\.[\w.]+)`", PAGES[page])
    for key in named:
        assert key in keys or key.endswith((".py", ".NAME")), key


@pytest.mark.parametrize("page", PAGES)
def test_every_path_named_exists(page):
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("runs", "data"))
    for name in re.findall(rf"`((?:{folders})/[^`\s]*|[\w-]+\.py)`", PAGES[page]):
        found = list(ROOT.glob(name.rstrip("/"))) if re.search(r"[*]", name) else [ROOT / name]
        # A program writes results/<file>; a name with a placeholder is no file.
        assert re.search("[<>]", name) or name.startswith("results/quickstart") or all(p.exists() for p in found), name


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_a_listing_exists(page):
    for block in blocks(page, ""):
        for name in re.findall(r"(?<!\S)[\w/]+(?:\.py|/)(?!\S)", block):
            assert (ROOT / name).exists() or (ROOT / "src" / "meanflow" / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_every_object_named_can_be_imported(page):
    for name in re.findall(r"`((?:meanflow|datamodules)(?:\.\w+)+)", PAGES[page]):
        get_object(name)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", PAGES[page]):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("https://"):
            continue
        file = folder / path if path else ROOT / page
        assert file.exists(), path
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_every_experiment_is_named():
    named = {name for text in PAGES.values() for name in re.findall(r"experiment=(\w+)|`(\w+)`", text) for name in name}
    assert {path.stem for path in (CONF / "experiment").glob("*.yaml")} <= named


def test_every_page_is_linked_from_the_readme():
    linked = re.findall(r"\]\((docs/\w+\.md)\)", PAGES["README.md"])
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")} <= set(linked)


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_short(page):
    assert len(PAGES[page].splitlines()) <= (200 if page == "README.md" else 150)


def test_every_extra_exists():
    table = PAGES["README.md"].split("| extra |")[1].split("\n\n")[0]
    extras = re.search(r"\[project.optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == set(
        re.findall(r"^([\w-]+) = ", extras[1], re.MULTILINE)
    )


def test_the_notebook_lines_run(tmp_path, monkeypatch):
    network = DMFTransformer(**tiny.NETWORK | {"input_size": 8, "num_classes": 10}, dmf_depth=1)
    pipeline = Pipeline(network, IdentityCodec(1), identity(1), FlowMapEuler(4))
    save_folder(pipeline, tmp_path / "runs" / "quickstart_dmf" / "checkpoints" / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    (block,) = blocks("README.md", "python")
    exec(block, names)
    assert names["images"].dtype == torch.uint8
    assert f"uint8 {tuple(names['images'].shape)}" in block


def test_the_lines_that_open_released_files_state_arguments_that_exist(monkeypatch):
    opened = []

    def load(path, ema=True, **stated):
        assert stated.keys() <= tiny.dmf_pipeline().network.config.keys()
        opened.append(path)

    monkeypatch.setattr(meanflow, "load", load, raising=False)
    (block,) = blocks("docs/released_files.md", "python")
    exec(block, {})
    assert len(opened) == block.count("meanflow.load")
