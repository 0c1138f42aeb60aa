"""Scoring a pipeline against data."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from meanflow import draws
from meanflow.atomic_file import atomic_file
from meanflow.generation import generate
from meanflow.image_grid import image_grid
from meanflow.metrics.frechet import FrechetDistance
from meanflow.pipeline import Pipeline
from meanflow.samplers import Sampler

# Samples of a score unless another number is asked for, as for published FIDs.
MAX_SAMPLES = 50_000


class Data(Protocol):
    """What is compared with: a data module of a latent store.

    Attributes:
        num_samples: Number of samples.
        labels: Their labels, int64 ``(num_samples,)``.
    """

    num_samples: int
    labels: Tensor

    def latents(self, indices: Sequence[int]) -> Tensor:
        """Return normalised latents ``(len(indices), C, H, W)``."""
        ...


@dataclass(frozen=True)
class Row:
    """Score of one sampler.

    Attributes:
        sampler: Its settings.
        nfe: Network evaluations per sample.
        frechet_distance: Distance between samples and data.
        seconds: Wall time of drawing and scoring.
    """

    sampler: dict[str, object]
    nfe: int
    frechet_distance: float
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of several samplers on the same data and noise.

    Attributes:
        rows: One per sampler.
        features: Name of the feature space.
        num_samples: Number of samples, and of data.
        seed: Seed of the noise.
        real_split: Distance between two random halves of the data: what a perfect model of half the data scores.
        images: First samples of each row, uint8.
    """

    rows: list[Row]
    features: str
    num_samples: int
    seed: int
    real_split: float
    images: list[Tensor]

    @property
    def best(self) -> Row:
        """The row with the smallest distance."""
        return min(self.rows, key=lambda row: row.frechet_distance)

    def picture(self, num_columns: int) -> Image.Image:
        """Return the first samples of all rows as one picture, row after row."""
        return image_grid(torch.cat(self.images), num_columns)


def evaluate_samplers(
    pipeline: Pipeline,
    samplers: Sequence[Sampler],
    metric: FrechetDistance,
    data: Data,
    *,
    num_samples: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    num_pictured: int = 0,
) -> Evaluation:
    """Score samplers, each on ``num_samples`` samples with the labels of as many data.

    Args:
        pipeline: The trained model.
        samplers: One row each.
        metric: The distance; its reference is replaced.
        data: What to compare with. For a codec with loss, its reconstructions.
        num_samples: Number of samples and of data; by default all data, at most 50,000.
        batch_size: Samples drawn at once.
        seed: Seed of the noise.
        num_pictured: Number of samples of each row to keep.

    Raises:
        ValueError: If ``num_samples`` is below 4 or more than there are data.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    chosen = chosen_data(data, min(data.num_samples, MAX_SAMPLES) if num_samples is None else num_samples)
    total = len(chosen)
    order = torch.randperm(total, generator=draws.generator(0, purpose=draws.SPLIT))
    shuffled = torch.tensor(chosen)[order].tolist()
    set_reference(metric, data_images(pipeline, data, shuffled[: total // 2], batch_size))
    real_split = score(metric, data_images(pipeline, data, shuffled[total // 2 :], batch_size))
    set_reference(metric, data_images(pipeline, data, chosen, batch_size))
    rows, pictured = [], []
    for sampler in samplers:
        start = time.perf_counter()
        kept: list[Tensor] = []
        images = sampled_images(pipeline, data.labels[chosen], seed, sampler=sampler, batch_size=batch_size)
        num_batches = -(-total // batch_size)
        description = f"{sampler.num_steps} step{'s' if sampler.num_steps > 1 else ''}"
        watched = track(_keep(images, kept, num_pictured), description, total=num_batches, console=_console())
        distance = score(metric, watched)
        rows.append(Row(sampler.config, sampler.nfe, distance, time.perf_counter() - start))
        pictured.append(torch.cat(kept)[:num_pictured] if kept else torch.empty(0, dtype=torch.uint8))
    return Evaluation(rows, metric.features.name, total, seed, real_split, pictured)


def chosen_data(data: Data, num_samples: int) -> list[int]:
    """Return the indices of the data that a score is about: random ones, since stores are often sorted by class.

    Raises:
        ValueError: If ``num_samples`` is below 4 or more than there are data.
    """
    if not 4 <= num_samples <= data.num_samples:
        raise ValueError(f"num_samples must be from 4 to the {data.num_samples} data, got {num_samples}")
    order = torch.randperm(data.num_samples, generator=draws.generator(0, purpose=draws.CHOICE))
    return order[:num_samples].sort().values.tolist()


def set_reference(metric: FrechetDistance, images: Iterable[Tensor]) -> None:
    """Make the statistics of real images, uint8 ``(B, C, H, W)`` each, the reference of the metric."""
    fresh = FrechetDistance(metric.features).to(metric.device)
    for batch in images:
        fresh.update(batch, real=True)
    metric.set_reference(fresh.real.compute())


def score(metric: FrechetDistance, images: Iterable[Tensor]) -> float:
    """Return the distance of images, uint8 ``(B, C, H, W)`` each, to the metric's reference.

    Every rank brings its own images; all ranks get the result.
    """
    metric.reset()
    for batch in images:
        metric.update(batch)
    value = float(metric.compute())
    metric.reset()
    return value


def sampled_images(
    pipeline: Pipeline,
    labels: Tensor,
    seed: int,
    *,
    sampler: Sampler | None = None,
    batch_size: int = 256,
    indices: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """Yield batches of images, uint8, drawn by the pipeline; see ``meanflow.generation.generate``."""
    return generate(
        pipeline.sampled,
        pipeline.codec,
        sampler or pipeline.sampler,
        labels,
        seed,
        normalization=pipeline.normalization,
        quantize=pipeline.quantize,
        batch_size=batch_size,
        device=pipeline.device,
        precision=pipeline.precision,
        indices=indices,
    )


@torch.no_grad()
def data_images(pipeline: Pipeline, data: Data, indices: Sequence[int], batch_size: int = 256) -> Iterator[Tensor]:
    """Yield batches of the data's images, uint8, as the pipeline decodes them."""
    for start in range(0, len(indices), batch_size):
        yield pipeline.decode(data.latents(list(indices[start : start + batch_size])).to(pipeline.device))


def print_rows(evaluation: Evaluation) -> None:
    """Print a table: what distinguishes the samplers, their distances, and which is best."""
    rows = evaluation.rows
    settings = [
        key
        for key in rows[0].sampler
        if key in ("name", "num_steps") or len({str(row.sampler[key]) for row in rows}) > 1
    ]
    table = Table(title=f"Fréchet distance ({evaluation.features}), {evaluation.num_samples} samples")
    for heading in (*settings, "NFE", "distance", "seconds"):
        table.add_column(heading.replace("num_steps", "steps"), justify="left" if heading == "name" else "right")
    for row in rows:
        values = (*(row.sampler[key] for key in settings), row.nfe, f"{row.frechet_distance:.3f}", f"{row.seconds:.1f}")
        best = row is evaluation.best and len(rows) > 1
        table.add_row(*map(str, values), style="bold" if best else "")
    blanks = [""] * len(settings)
    table.add_row("two halves of the data", *blanks, f"{evaluation.real_split:.3f}", "", style="dim")
    _console().print(table)
    if len(rows) > 1:
        chosen = ", ".join(f"{key}={evaluation.best.sampler[key]}" for key in settings if key != "name")
        _console().print(f"best: {chosen}: {evaluation.best.frechet_distance:.3f}", highlight=False)


def write_results(evaluation: Evaluation, path: str | os.PathLike[str], ckpt: str) -> None:
    """Write the evaluation as JSON; the file appears complete or not at all."""
    content = {
        "ckpt": ckpt,
        "features": evaluation.features,
        "num_samples": evaluation.num_samples,
        "seed": evaluation.seed,
        "real_split": evaluation.real_split,
        "rows": [asdict(row) for row in evaluation.rows],
        "best": asdict(evaluation.best),
        "versions": {"meanflow": version("meanflow"), "torch": torch.__version__, "python": platform.python_version()},
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def _keep(images: Iterable[Tensor], kept: list[Tensor], number: int) -> Iterator[Tensor]:
    for batch in images:
        if sum(map(len, kept)) < number:
            kept.append(batch.cpu())
        yield batch


def _console() -> Console:
    return Console()
