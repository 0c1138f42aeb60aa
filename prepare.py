"""Make and check stores and reference statistics: ``python prepare.py task=digits out=data/digits``."""

from __future__ import annotations

import inspect

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from command_line import program


@program("prepare")
def main(config: DictConfig) -> None:
    """Run the task of the configuration."""
    if "task" not in config:
        raise ValueError("a value must be given for task; python prepare.py --help lists the tasks")
    missing = [str(key) for key in config if OmegaConf.is_missing(config, key)]
    if missing:
        raise ValueError(f"a value must be given for {', '.join(sorted(missing))}")
    # Called here, not by Hydra, which would wrap every exception in one of its own.
    task = instantiate(config.task, _partial_=True)
    try:
        inspect.signature(task.func).bind(**task.keywords)
    except TypeError as error:
        raise ValueError(f"task: {error}") from error
    print(task())


if __name__ == "__main__":
    main()
