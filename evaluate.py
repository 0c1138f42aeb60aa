"""Score a trained network: ``python evaluate.py ckpt=PATH`` (``--help`` lists the keys)."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from meanflow.samplers import Sampler

# Before torch is imported: OpenMP threads that wait spin for a moment only and then sleep. With the default, training
# on a shared CPU is over ten times slower as soon as anything else runs.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> None:
    """Evaluate as the configuration says."""
    from meanflow.entry import one_line_errors

    with one_line_errors():
        evaluate(config)


def evaluate(config: DictConfig) -> None:
    """Draw samples, print a table, and write the results and the picture that are asked for."""
    # Imported here, so that --help and --cfg answer at once.
    import torch
    from hydra.utils import instantiate

    import meanflow
    from meanflow.evaluation import evaluate_samplers, print_rows, write_results

    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"a value must be given for {', '.join(sorted(missing))}")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    if not (device == "cpu" or (device.startswith("cuda") and torch.cuda.is_available())):
        raise ValueError(f"device must be auto, cpu or (where there is one) cuda, got {device!r}")
    for key in ("results", "picture"):
        if config[key] is not None:
            Path(config[key]).parent.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    pipeline = meanflow.load(config.ckpt, ema=config.ema).to(device)
    samplers = sampler_grid(pipeline.sampler, OmegaConf.to_container(config.sampler))
    datamodule = instantiate(config.datamodule)
    datamodule.require_pipeline(pipeline)
    evaluation = evaluate_samplers(
        pipeline,
        samplers,
        instantiate(config.metric).to(device),
        datamodule,
        num_samples=config.num_samples,
        batch_size=config.batch_size,
        seed=config.seed,
        num_pictured=0 if config.picture is None else 100,
    )
    print_rows(evaluation)
    if config.results is not None:
        write_results(evaluation, config.results, ckpt=str(config.ckpt))
    if config.picture is not None:
        evaluation.picture(num_columns=10).save(config.picture)


def sampler_grid(sampler: Sampler, settings: dict[str, Any]) -> list[Sampler]:
    """Return the sampler with every combination of the settings; ``None`` leaves one as it is.

    Raises:
        ValueError: If a setting is out of range or unknown.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    interval = settings.pop("interval", None)
    axes = [
        [{key: value} for value in (values if isinstance(values, list) else [values])]
        for key, values in settings.items()
    ]
    if interval is not None:
        pairs = interval if isinstance(interval[0], list) else [interval]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"sampler.interval must be [t_min,t_max] or a list of such pairs, got {interval}")
        axes.append([{"t_min": t_min, "t_max": t_max} for t_min, t_max in pairs])
    return [
        sampler.replace(**{key: value for choice in choices for key, value in choice.items()})
        for choices in itertools.product(*axes)
    ]


if __name__ == "__main__":
    main()
