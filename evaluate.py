"""Score a trained network: ``python evaluate.py ckpt=PATH`` (``--help`` lists the keys)."""

from __future__ import annotations

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

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
    arguments = {key: value for key, value in config.sampler.items() if value is not None}
    steps = arguments.pop("num_steps", pipeline.sampler.num_steps)
    samplers = [
        pipeline.sampler.replace(num_steps=n, **arguments)
        for n in (steps if isinstance(steps, ListConfig) else [steps])
    ]
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


if __name__ == "__main__":
    main()
