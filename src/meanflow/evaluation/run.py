"""Scoring a trained model, or images of any origin, under a protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from meanflow.display.progress import ImageProgress
from meanflow.distributed import Ranks
from meanflow.evaluation.image_output import ImageOutput
from meanflow.evaluation.protocol import MAX_SAMPLES, Protocol
from meanflow.evaluation.reference import Data, chosen_data, compare_halves
from meanflow.evaluation.scorer import ImageBatch, Scorer
from meanflow.generation import generate
from meanflow.pipeline import Pipeline
from meanflow.samplers import Sampler


@dataclass(frozen=True)
class Row:
    """Values of one sample of images.

    Attributes:
        metrics: Values by name.
        sampler: Settings of the sampler; ``None`` for images that were given.
        nfe: Network evaluations per image, likewise.
        seconds: Wall time of drawing and scoring.
        images_per_second: Images of all ranks over ``seconds``.
    """

    metrics: dict[str, float]
    sampler: dict[str, object] | None
    nfe: int | None
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """Values of several samplers under the same protocol and from the same noise, or of images that were given.

    Attributes:
        rows: One per sampler.
        headline: Name of the value that ranks them.
        higher_is_better: Whether more of it is better.
        num_images: Images per row.
        real_split: Values of one random half of the data beside the other: what a perfect model of half the data
            would reach. ``None`` without data.
    """

    rows: list[Row]
    headline: str
    higher_is_better: bool
    num_images: int
    real_split: dict[str, float] | None = None

    @property
    def best(self) -> Row:
        """The best row."""
        sign = -1 if self.higher_is_better else 1
        return min(self.rows, key=lambda row: sign * row.metrics[self.headline])


def evaluate_samplers(
    pipeline: Pipeline,
    samplers: Sequence[Sampler],
    scorer: Scorer,
    protocol: Protocol,
    *,
    data: Data | None = None,
    num_samples: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    ranks: Ranks | None = None,
    outputs: Callable[[Sampler, Tensor], Sequence[ImageOutput]] = lambda sampler, labels: (),
) -> Evaluation:
    """Score samplers, each on the same labels and start noise.

    Args:
        pipeline: The trained model.
        samplers: One row each.
        scorer: The metrics, with their reference if the protocol names a file.
        protocol: What is measured, and how.
        data: What to compare with if the protocol names no file, and whose labels to take if it says so. For a codec
            with loss, the images are its reconstructions.
        num_samples: In place of the protocol's number.
        batch_size: Samples drawn at once on each rank.
        seed: Seed of the noise.
        ranks: This process among those that share the work; all must call it.
        outputs: What keeps images, for a sampler and the labels of its samples.

    Raises:
        ValueError: If a number is out of range, or data are needed that are not given.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    ranks = ranks or Ranks()
    total = sample_count(protocol, num_samples, data, ranks)
    data_labels = real_split = None
    if protocol.needs_data:
        if data is None:
            raise ValueError(f"protocol {protocol.name} needs data: give a datamodule, or a reference file")
        chosen = chosen_data(data, total)
        data_labels = data.labels[chosen]
        if protocol.reference is None:
            real_split = compare_halves(scorer, pipeline, data, chosen, batch_size, ranks)
    labels = protocol.labels(total, pipeline.network.num_classes, data_labels)
    rows = []
    for sampler in samplers:
        description = f"{sampler.num_steps} step{'s' if sampler.num_steps > 1 else ''}"
        batches = sampled_images(pipeline, protocol, labels, seed, sampler, batch_size, ranks)
        row = score_row(scorer, batches, total, description, ranks, outputs(sampler, labels))
        rows.append(replace(row, sampler=sampler.config, nfe=sampler.nfe))
    return Evaluation(rows, scorer.headline, scorer.higher_is_better, total, real_split)


def evaluate_images(
    batches: Iterable[ImageBatch | tuple[Tensor, Sequence[int]]],
    num_images: int,
    scorer: Scorer,
    protocol: Protocol,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Score images of any origin beside the scorer's reference.

    Args:
        batches: This rank's images, uint8 ``(B, C, H, W)``, with their numbers.
        num_images: Number of images of all ranks.
        scorer: The metrics, with their reference.
        protocol: What is measured; labels and rounding are those of whoever made the images.
        ranks: This process among those that share the work; all must call it.

    Raises:
        ValueError: If the protocol names no file to compare with.
    """
    if protocol.reference is None:
        raise ValueError(
            f"protocol {protocol.name} compares with data, of which given images know nothing: set reference=FILE "
            "(prepare.py task=stats makes one) or choose another protocol"
        )
    row = score_row(scorer, (ImageBatch(*batch) for batch in batches), num_images, "images", ranks or Ranks())
    return Evaluation([row], scorer.headline, scorer.higher_is_better, num_images)


def sample_count(protocol: Protocol, num_samples: int | None, data: Data | None, ranks: Ranks) -> int:
    """Return how many samples are drawn: at least two by each rank, in each half of the data.

    Raises:
        ValueError: If they are too few, or more than there are data to compare with.
    """
    most = data.num_samples if protocol.needs_data and data is not None else None
    if num_samples is None:
        num_samples = protocol.num_samples or min(MAX_SAMPLES, most or MAX_SAMPLES)
    least = 4 * ranks.world_size
    if num_samples < least or (most is not None and num_samples > most):
        allowed = f"at least {least}" if most is None else f"from {least} to the {most} data"
        raise ValueError(f"num_samples must be {allowed}, got {num_samples}")
    return num_samples


def sampled_images(
    pipeline: Pipeline,
    protocol: Protocol,
    labels: Tensor,
    seed: int,
    sampler: Sampler | None = None,
    batch_size: int = 256,
    ranks: Ranks | None = None,
) -> Iterator[ImageBatch]:
    """Yield this rank's batches of images drawn by the pipeline; see ``meanflow.generation.generate``."""
    indices = (ranks or Ranks()).own(len(labels))
    images = generate(
        pipeline.sampled,
        pipeline.codec,
        sampler or pipeline.sampler,
        labels,
        seed,
        normalization=pipeline.normalization,
        quantize=protocol.quantize,
        batch_size=batch_size,
        device=pipeline.device,
        precision=pipeline.precision,
        indices=indices,
    )
    for number, batch in enumerate(images):
        yield ImageBatch(batch, indices[number * batch_size : (number + 1) * batch_size])


def score_row(
    scorer: Scorer,
    batches: Iterable[ImageBatch],
    total: int,
    description: str,
    ranks: Ranks,
    outputs: Sequence[ImageOutput] = (),
) -> Row:
    """Score a sample of which every rank brings its part, with a progress bar, and hand its images to outputs."""
    start = time.perf_counter()
    progress = ImageProgress(description, total, console=ranks.console())

    def watched() -> Iterator[ImageBatch]:
        for batch in batches:
            for output in outputs:
                output.add(*batch)
            yield batch
            progress.advance(min(len(batch.images) * ranks.world_size, total - progress.done))

    with progress.shown():
        values = scorer.score(watched())
    for output in outputs:
        output.finish()
    seconds = time.perf_counter() - start
    return Row(values, None, None, seconds, total / seconds)
