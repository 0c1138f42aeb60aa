"""Build and check what training reads: ``python prepare.py task=digits out=data/digits``."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(config_path="conf", config_name="prepare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run the task that the configuration names; bad input ends in one line and exit status 1."""
    try:
        if "task" not in config:
            raise ValueError("task must be given; python prepare.py --help lists the tasks")
        for key in config:
            if OmegaConf.is_missing(config, key):
                raise ValueError(f"{key} must be given: {key}=...")
        # A partial, called here: Hydra would wrap the task's exceptions in its own.
        print(hydra.utils.instantiate(config.task, _partial_=True)())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
