"""Make and check stores and reference statistics: ``python prepare.py task=digits out=data/digits``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig, OmegaConf


@hydra.main(config_path="conf", config_name="prepare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run the task of the configuration. Bad input ends in one line and exit status 1."""
    from meanflow.display.errors import one_line_errors

    with one_line_errors():
        if "task" not in config:
            raise ValueError("a value must be given for task; python prepare.py --help lists the tasks")
        missing = [str(key) for key in config if OmegaConf.is_missing(config, key)]
        if missing:
            raise ValueError(f"a value must be given for {', '.join(sorted(missing))}")
        print(hydra.utils.instantiate(config.task))


if __name__ == "__main__":
    main()
