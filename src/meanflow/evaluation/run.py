"""Evaluation of a trained model, or of images of any origin, under a protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from torch import Tensor

from meanflow.display.progress import ImageProgress
from meanflow.distributed import Ranks
from meanflow.evaluation.image_output import ImageOutput
from meanflow.evaluation.protocol import MAX_SAMPLES, Protocol
from meanflow.evaluation.reference import Data, DataReference
from meanflow.evaluation.scorer import ImageBatch, Scorer
from meanflow.pipeline import Pipeline
from meanflow.samplers import Sampler


@dataclass(frozen=True)
class Row:
    """Values of one sample of images, which is one row of the printed table.

    Attributes:
        metrics: Values by name.
        sampler: Settings of the sampler; ``None`` for given images.
        nfe: Network evaluations per image; ``None`` for given images.
        seconds: Wall time of sampling and scoring.
        images_per_second: Number of images of all ranks divided by ``seconds``.
    """

    metrics: dict[str, float]
    sampler: dict[str, object] | None
    nfe: int | None
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """Values of several samplers under the same protocol and from the same noise, or of given images.

    Attributes:
        rows: One row per sampler.
        headline: Name of the value that ranks the rows.
        higher_is_better: Whether a higher headline value is better.
        num_images: Images per row.
        real_split: Values of one random half of the data, with the other half as the reference. A perfect model of half
            of the data has these values. ``None`` if the evaluation does not compare with data.
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


class Evaluator:
    """Scores samples of a pipeline under a protocol. All scores have the same labels and the same start noise.

    Args:
        scorer: The metrics. If the protocol names a file, ``prepare_scorer`` has made the file the reference.
        protocol: Metrics, labels, rounding and reference.
        data: Data of the data module. They are the reference if the protocol names no file. The samples have their
            labels if ``protocol.labels`` is ``DataLabels``.
        num_samples: Number of samples; ``None`` for the protocol's number.
        batch_size: Samples on each rank at a time.
        seed: Seed of the noise.
        ranks: This process among the processes that share the work. All processes must call the methods.
        console: Console for the progress; ``None`` shows no progress.

    Raises:
        ValueError: If a number is out of range, or the protocol needs data and ``data`` is ``None``.

    Attributes:
        num_samples: Number of samples of all ranks.
    """

    def __init__(
        self,
        scorer: Scorer,
        protocol: Protocol,
        *,
        data: Data | None = None,
        num_samples: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
        ranks: Ranks | None = None,
        console: Console | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.scorer = scorer
        self.protocol = protocol
        self.batch_size = batch_size
        self.seed = seed
        self.ranks = ranks or Ranks()
        self.console = console or Console(quiet=True)
        self.num_samples = sample_count(protocol, num_samples, data, self.ranks)
        self._data: DataReference | None = None
        if protocol.needs_data:
            if data is None:
                raise ValueError(f"protocol {protocol.name} needs data: give a datamodule, or a reference file")
            self._data = DataReference(data, self.num_samples, batch_size, self.ranks, self.console)
        self._has_reference = protocol.reference is not None

    def labels(self, pipeline: Pipeline) -> Tensor:
        """Return the labels of all samples, int64 ``(num_samples,)``."""
        data_labels = None if self._data is None else self._data.labels
        return self.protocol.labels(self.num_samples, pipeline.network.num_classes, data_labels)

    def compare_halves(self, pipeline: Pipeline) -> dict[str, float] | None:
        """Compare two halves of the data, then make all data the reference. Do nothing if the protocol names a file.

        Returns:
            Values of one random half of the data, with the other half as the reference; ``None`` if the protocol names
            a file.
        """
        if self._data is None or self.protocol.reference is not None:
            return None
        self._has_reference = True
        return self._data.compare_halves(self.scorer, pipeline)

    def score(self, pipeline: Pipeline, sampler: Sampler, outputs: Sequence[ImageOutput] = ()) -> Row:
        """Sample images, score them, and hand them to the outputs."""
        if self._data is not None and not self._has_reference:
            self._data.compare(self.scorer, pipeline)
            self._has_reference = True
        batches = sampled_images(
            pipeline, self.protocol, self.labels(pipeline), self.seed, sampler, self.batch_size, self.ranks
        )
        label = f"{sampler.num_steps} step{'s' if sampler.num_steps > 1 else ''}"
        row = score_row(self.scorer, batches, self.num_samples, label, self.ranks, self.console, outputs)
        return replace(row, sampler=sampler.config, nfe=sampler.nfe)


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
    """Score each sampler on the same labels and the same start noise.

    Args:
        pipeline: The trained model.
        samplers: The samplers. The evaluation has one row for each.
        scorer, protocol, data, num_samples, batch_size, seed, ranks: As in ``Evaluator``.
        outputs: Function of a sampler and the labels of its samples. It returns the outputs that keep the images.

    Raises:
        ValueError: If a number is out of range, or the protocol needs data and ``data`` is ``None``.
    """
    ranks = ranks or Ranks()
    evaluator = Evaluator(
        scorer,
        protocol,
        data=data,
        num_samples=num_samples,
        batch_size=batch_size,
        seed=seed,
        ranks=ranks,
        console=ranks.console(),
    )
    real_split = evaluator.compare_halves(pipeline)
    labels = evaluator.labels(pipeline)
    rows = [evaluator.score(pipeline, sampler, outputs(sampler, labels)) for sampler in samplers]
    return Evaluation(rows, scorer.headline, scorer.higher_is_better, evaluator.num_samples, real_split)


def evaluate_images(
    batches: Iterable[ImageBatch | tuple[Tensor, Sequence[int]]],
    num_images: int,
    scorer: Scorer,
    protocol: Protocol,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Score images of any origin against the scorer's reference.

    Args:
        batches: This rank's images, uint8 ``(B, C, H, W)``, with their numbers.
        num_images: Number of images of all ranks.
        scorer: The metrics. Their reference is set.
        protocol: Protocol of the score. Its labels and its rounding do not apply to given images.
        ranks: This process among the processes that share the work. All processes must call this function.

    Raises:
        ValueError: If the protocol names no reference file.
    """
    if protocol.reference is None:
        raise ValueError(
            f"protocol {protocol.name} compares with data, but given images need a reference file: set reference=FILE "
            "(prepare.py task=stats writes such a file) or choose another protocol"
        )
    ranks = ranks or Ranks()
    given = (ImageBatch(*batch) for batch in batches)
    row = score_row(scorer, given, num_images, "images", ranks, ranks.console())
    return Evaluation([row], scorer.headline, scorer.higher_is_better, num_images)


def sample_count(protocol: Protocol, num_samples: int | None, data: Data | None, ranks: Ranks) -> int:
    """Return the number of samples of all ranks.

    The comparison of two halves of the data needs at least two images on each rank in each half. The smallest number is
    therefore four for each rank.

    Raises:
        ValueError: If the number is too small, or larger than the number of data to compare with.
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
    """Yield this rank's batches of images, which ``Pipeline.generate`` makes."""
    indices = (ranks or Ranks()).own(len(labels))
    images = pipeline.generate(
        labels, seed, sampler=sampler, quantize=protocol.quantize, batch_size=batch_size, indices=indices
    )
    for number, batch in enumerate(images):
        yield ImageBatch(batch, indices[number * batch_size : (number + 1) * batch_size])


def score_row(
    scorer: Scorer,
    batches: Iterable[ImageBatch],
    total: int,
    label: str,
    ranks: Ranks,
    console: Console,
    outputs: Sequence[ImageOutput] = (),
) -> Row:
    """Score a sample of images, show the progress, and hand the images to outputs.

    Every rank has its part of the images.
    """
    start = time.perf_counter()
    progress = ImageProgress(label, total, console=console)

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
