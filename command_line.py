"""The start of train.py, evaluate.py and prepare.py: Hydra composes a configuration, and a program runs with it.

An error that the user can mend ends a program with one line and exit status 1, whether Hydra finds it while it composes
or the program finds it later. ``HYDRA_FULL_ERROR=1`` shows the traceback instead.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).parent / "conf"
FULL_ERROR = "HYDRA_FULL_ERROR"


def program(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[..., Any]]:
    """Make a function of a configuration a program, as ``hydra.main`` does, with errors in one line.

    The program returns the value of the function if it is called with a configuration. Without one it reads the
    command line.

    Args:
        config_name: Name of the file in ``conf`` that the program starts from.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[..., Any]:
        full_error = os.environ.get(FULL_ERROR)

        # Inside, not beside this function: a launcher may send the task to a machine that cannot import this module.
        def restore() -> None:
            if full_error is None:
                os.environ.pop(FULL_ERROR, None)
            else:
                os.environ[FULL_ERROR] = full_error

        @functools.wraps(function)
        def task(config: DictConfig) -> Any:
            from meanflow.display.errors import one_line_errors

            restore()
            with one_line_errors():
                try:
                    return function(config)
                except OmegaConfBaseException as error:
                    raise ValueError(str(error).splitlines()[0]) from error

        composed = hydra.main(config_path=str(CONF), config_name=config_name, version_base="1.3")(task)

        @functools.wraps(function)
        def main(config: DictConfig | None = None) -> Any:
            nonlocal full_error
            if config is not None:
                return task(config)
            full_error = os.environ.get(FULL_ERROR)
            os.environ[FULL_ERROR] = "1"  # Hydra then raises its errors instead of printing them over several lines
            try:
                return composed()
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                if full_error == "1" or not is_about_the_command_line(error):
                    raise
                print(f"error: {explanation(str(error), sys.argv[1:])}", file=sys.stderr)
                sys.exit(1)
            finally:
                restore()

        return main

    return decorate


def is_about_the_command_line(error: Exception) -> bool:
    """Return whether Hydra found an error while it composed: errors of the program itself have ended it by then."""
    return isinstance(error, HydraException | OmegaConfBaseException) or "group override" in str(error)


def explanation(message: str, overrides: Sequence[str] = ()) -> str:
    """Return Hydra's message about the command line as one line that says how to do better.

    Args:
        message: Text of Hydra's exception.
        overrides: Arguments of the program.
    """
    if found := re.search(r"Could not find '([^']*)/([^'/]*)'", message):
        return f"{found[1]} must be {one_of(options(found[1]))}, got {found[2]!r}"
    if "group override must be a string or a list" in message or "You must specify" in message:
        emptied = [key for key, _, value in (override.partition("=") for override in overrides) if value == "null"]
        key = next((key for key in emptied if (CONF / key.partition("@")[0]).is_dir()), "a group")
        return f"{key} must be {one_of(options(key.partition('@')[0]))}, got null"
    if found := re.search(r"Could not override '([^']*)'", message):
        return _no_such_key(found[1])
    lines = [line for line in message.splitlines() if line.strip() and "hydra.cc" not in line]
    return " ".join(" ".join(lines).split())


def _no_such_key(key: str) -> str:
    group = key.partition("@")[0]
    last = key.rpartition(".")[2]
    parents = nested_groups()
    for name in (group, last):
        if parts := parents.get(name):
            methods = " or ".join(sorted(parts))
            return (
                f"{key} is no key here: {name} is a part of the objective, chosen as "
                f"{name}@objective.{name}={'|'.join(options(name))}, with objective={methods}"
            )
    close = get_close_matches(key, [path.name for path in CONF.iterdir() if path.is_dir()], n=1)
    hint = f"; do you mean {close[0]}?" if close else ""
    return (
        f"there is no group or key {key!r}{hint} (--help lists the groups, --cfg job the keys; +{key}=... adds a key)"
    )


def options(group: str) -> list[str]:
    """Return the names that a group can be set to."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def one_of(names: Sequence[str]) -> str:
    """Return ``one of a, b``."""
    return f"one of {', '.join(names)}"


def nested_groups() -> dict[str, set[str]]:
    """Return the groups that are part of an objective, each with the objectives that have them."""
    groups: dict[str, set[str]] = {}
    for path in (CONF / "objective").glob("*.yaml"):
        for entry in yaml.safe_load(path.read_text()).get("defaults", []):
            for key in entry if isinstance(entry, dict) else ():
                if found := re.fullmatch(r"/(\w+)@\w+", key):
                    groups.setdefault(found[1], set()).add(path.stem)
    return groups
