"""Score a trained network or given images: ``python evaluate.py ckpt=PATH`` (``--help`` lists the keys)."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from command_line import program

if TYPE_CHECKING:
    import torch
    from lightning.fabric import Fabric
    from torch import Tensor

    from meanflow.distributed import Ranks
    from meanflow.evaluation import Protocol
    from meanflow.evaluation.image_output import ImageOutput
    from meanflow.evaluation.run import Evaluation
    from meanflow.evaluation.scorer import Scorer
    from meanflow.samplers import Sampler

# Must be set before torch is imported. OpenMP threads that wait for work then sleep after a moment instead of spinning.
# With the default, a program on a shared CPU is over ten times slower as soon as another program runs.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@program("evaluate")
def main(config: DictConfig) -> None:
    """Evaluate as the configuration says."""
    from meanflow.display.errors import one_line_warnings

    one_line_warnings()
    evaluate(config)


def evaluate(config: DictConfig) -> None:
    """Score samples or given images, print a table, and write the record and the images that the user asks for."""
    # Imported here, so that --help and --cfg do not wait for these imports.
    import torch
    from hydra.utils import instantiate

    from meanflow.distributed import Ranks
    from meanflow.evaluation.image_output import require_output_kinds
    from meanflow.evaluation.record import evaluation_record, write_record
    from meanflow.evaluation.reference import prepare_scorer
    from meanflow.evaluation.scorer import Scorer
    from meanflow.evaluation.table import print_rows

    start = time.perf_counter()
    if (config.ckpt is None) == (config.images is None):
        raise ValueError("either ckpt=PATH (a model) or images=PATH (given images) must be given")
    kinds = [config.save] if isinstance(config.save, str) else list(config.save or ())
    require_output_kinds(kinds)
    if config.images is not None and (unused := [key for key in ("num_samples", "save") if config[key] is not None]):
        raise ValueError(f"{', '.join(unused)} must be null with images=PATH: all given images are scored unchanged")
    if config.results is not None:
        Path(config.results).parent.mkdir(parents=True, exist_ok=True)
    if config.reference is not None:
        config.protocol.reference = config.reference
    protocol: Protocol = instantiate(config.protocol)
    scorer = Scorer(protocol.metrics, instantiate(config.features))
    fabric = launch(config.device, config.devices, config.num_nodes)
    ranks = Ranks(fabric.global_rank, fabric.world_size)
    if ranks.rank > 0:
        warnings.simplefilter("ignore")  # the first rank prints the warnings
    console = ranks.console()
    torch.set_float32_matmul_precision("high")
    prepare_scorer(scorer, protocol, fabric.device, config.batch_size, ranks)
    if config.images is not None:
        evaluation, about = evaluate_given(config, scorer, protocol, fabric.device, ranks)
    else:
        evaluation, about = evaluate_checkpoint(config, scorer, protocol, kinds, fabric.device, ranks)
    print_rows(evaluation, f"protocol {protocol.name}, {evaluation.num_images} images", console)
    if protocol.num_samples not in (None, evaluation.num_images):
        console.print(
            f"{protocol.name} is defined on {protocol.num_samples} images: compare values of {evaluation.num_images} "
            "images with each other only",
            highlight=False,
            soft_wrap=True,
        )
    if config.results is not None and ranks.rank == 0:
        about |= {"num_processes": ranks.world_size, "wall_time_seconds": time.perf_counter() - start}
        write_record(evaluation_record(evaluation, protocol, scorer, fabric.device, **about), config.results)
        console.print(f"wrote {config.results}", highlight=False, soft_wrap=True)


def launch(device: str, devices: int | str, num_nodes: int) -> Fabric:
    """Start the processes that share the work, unless ``torchrun`` or SLURM has started them.

    Raises:
        ValueError: If the machine has no such device.
    """
    import torch
    from lightning.fabric import Fabric

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not (chosen == "cpu" or (chosen == "cuda" and torch.cuda.is_available())):
        raise ValueError(f"device must be auto, cpu or (on a machine with a GPU) cuda, got {device!r}")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        devices, num_nodes = local, world // local
    elif devices == "auto":
        devices = torch.cuda.device_count() if chosen == "cuda" else 1
    strategy = "ddp" if int(devices) * num_nodes > 1 else "auto"
    fabric = Fabric(accelerator=chosen, devices=int(devices), num_nodes=num_nodes, strategy=strategy)
    fabric.launch()
    return fabric


def evaluate_checkpoint(
    config: DictConfig, scorer: Scorer, protocol: Protocol, kinds: list[str], device: torch.device, ranks: Ranks
) -> tuple[Evaluation, dict[str, object]]:
    """Score samples of a checkpoint. Return the evaluation, and entries about the checkpoint for the record."""
    from hydra.utils import instantiate

    import meanflow
    from meanflow.checkpoints.hub import local_path
    from meanflow.evaluation.image_output import image_outputs
    from meanflow.evaluation.record import checkpoint_sha256
    from meanflow.evaluation.run import evaluate_samplers

    pipeline = meanflow.load(config.ckpt, ema=config.ema).to(device)
    samplers = sampler_grid(pipeline.sampler, OmegaConf.to_container(config.sampler))
    data = None
    if protocol.needs_data:
        if missing := sorted(OmegaConf.missing_keys(config.datamodule)):
            raise ValueError(f"a value must be given for {', '.join(f'datamodule.{key}' for key in missing)}")
        data = instantiate(config.datamodule)
        data.require_pipeline(pipeline)
    if config.fast:
        pipeline.accelerate()

    def outputs(sampler: Sampler, labels: Tensor) -> list[ImageOutput]:
        return image_outputs(kinds, Path(config.save_to) / row_name(sampler, samplers), labels, ranks)

    evaluation = evaluate_samplers(
        pipeline,
        samplers,
        scorer,
        protocol,
        data=data,
        num_samples=config.num_samples,
        batch_size=config.batch_size,
        seed=config.seed,
        ranks=ranks,
        outputs=outputs,
    )
    checkpoint = {
        "path": str(config.ckpt),
        "sha256": checkpoint_sha256(local_path(config.ckpt)),
        "ema": config.ema,
        "precision": "float32" if pipeline.precision is None else str(pipeline.precision).removeprefix("torch."),
    }
    return evaluation, {"ckpt": checkpoint, "seed": config.seed}


def evaluate_given(
    config: DictConfig, scorer: Scorer, protocol: Protocol, device: torch.device, ranks: Ranks
) -> tuple[Evaluation, dict[str, object]]:
    """Score given images. Return the evaluation, and entries about the images for the record."""
    from datamodules.images.given_images import open_given_images
    from meanflow.evaluation.run import evaluate_images

    images = open_given_images(config.images, config.batch_size)
    for note in images.notes:
        ranks.console().print(note, highlight=False, soft_wrap=True)
    batches = ((pixels.to(device), numbers) for pixels, numbers in images.batches(ranks.rank, ranks.world_size))
    evaluation = evaluate_images(batches, len(images), scorer, protocol, ranks)
    return evaluation, {"images": str(config.images), "notes": images.notes}


def row_name(sampler: Sampler, samplers: list[Sampler]) -> str:
    """Return a folder name for a sampler: the settings in which the samplers differ; empty for a single sampler."""
    from meanflow.evaluation.table import flat_settings

    own, *others = (flat_settings(other.config) for other in (sampler, *samplers))
    differing = {key: value for key, value in own.items() if any(other[key] != value for other in others)}
    shown = {key: "-".join(map(str, value)) if isinstance(value, list) else value for key, value in differing.items()}
    return ",".join(f"{key}={value}" for key, value in shown.items())


def sampler_grid(sampler: Sampler, settings: dict[str, Any]) -> list[Sampler]:
    """Return the sampler with every combination of the settings.

    Args:
        sampler: The sampler to start from.
        settings: Arguments to replace, and under ``guidance`` arguments of its guidance. Each is one value or a list of
            values; ``None`` keeps the sampler's own value.

    Raises:
        ValueError: If a setting is out of range or unknown.
    """
    guidance = settings.get("guidance") or {}
    flat = {key: values for key, values in {**settings, **guidance}.items() if values is not None and key != "guidance"}
    axes = [[(key, value) for value in values_of(key, values)] for key, values in flat.items()]
    combinations = [dict(combination) for combination in itertools.product(*axes)]
    return [
        sampler.replace(
            **{key: value for key, value in combination.items() if key not in guidance},
            guidance={key: value for key, value in combination.items() if key in guidance},
        )
        for combination in combinations
    ]


def values_of(key: str, values: Any) -> list[Any]:
    """Return the values of a setting that is one value or a list of values. An interval is a list of two numbers."""
    is_one = not isinstance(values, list) or (key == "interval" and not all(isinstance(a, list) for a in values))
    return [values] if is_one else values


if __name__ == "__main__":
    main()
