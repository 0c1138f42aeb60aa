"""What generated images are compared with: a file of statistics, or data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol as Interface

import torch
from torch import Tensor

from meanflow import random_streams
from meanflow.display.progress import ImageProgress
from meanflow.distributed import Ranks
from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.scorer import Scorer
from meanflow.files.npz_images import NpzImages
from meanflow.files.remote import local_file
from meanflow.metrics.features import ImageFeatures
from meanflow.metrics.reference import Reference
from meanflow.metrics.reference_file import read_reference
from meanflow.pipeline import Pipeline


class Data(Interface):
    """What is compared with: a data module of a latent store.

    Attributes:
        num_samples: Number of samples.
        labels: Their labels, int64 ``(num_samples,)``.
    """

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        ...

    @property
    def labels(self) -> Tensor:
        """Labels of the samples, int64 ``(num_samples,)``."""
        ...

    def latents(self, indices: Sequence[int]) -> Tensor:
        """Return normalised latents ``(len(indices), C, H, W)``."""
        ...


def protocol_reference(protocol: Protocol) -> Reference:
    """Read the file of statistics that a protocol names.

    Raises:
        FileNotFoundError: If it is not there; says where it comes from.
        ValueError: If the protocol names none, or the file holds no statistics.
    """
    if protocol.reference is None:
        raise ValueError(f"protocol {protocol.name} compares with data, not with a file")
    try:
        return read_reference(local_file(protocol.reference))
    except FileNotFoundError as error:
        origin = f"; it comes from {protocol.reference_origin}" if protocol.reference_origin else ""
        raise FileNotFoundError(
            f"the reference of protocol {protocol.name}: {error}{origin}. Put it there, or set reference=FILE"
        ) from error


def compare_with_file(
    scorer: Scorer,
    reference: Reference,
    device: torch.device | str,
    batch_size: int = 256,
    ranks: Ranks | None = None,
) -> None:
    """Make what was read from a file the scorer's reference.

    Where metrics need features of real images, and the file has images in their place, as ADM's has, their features are
    computed now; all ranks must call it.

    Raises:
        ValueError: If it lacks what a metric needs, or its features are of other weights.
    """
    missing = {metric.extractor for metric in scorer.metrics if metric.needs_features} - reference.features.keys()
    if missing and reference.origin["has_images"]:
        reference = with_features(reference, scorer, device, batch_size, ranks or Ranks())
    scorer.set_reference(reference)


def with_features(
    reference: Reference, scorer: Scorer, device: torch.device | str, batch_size: int, ranks: Ranks
) -> Reference:
    """Return a reference with the features of the images in its file."""
    builder = scorer.reference_builder()
    real = NpzImages(str(reference.origin["file"]))
    own = slice(ranks.rank, None, ranks.world_size)
    progress = ImageProgress("images of the reference", len(real), console=ranks.console())
    with progress.shown():
        for images, numbers in real.batches(batch_size * ranks.world_size):
            builder.add(scorer.extract(images[own].to(device)), numbers[own])
            progress.advance(len(images))
    return replace(reference, features={**builder.compute().features, **reference.features})


def chosen_data(data: Data, num_samples: int) -> list[int]:
    """Return the indices of the data that a score is about: random ones, since stores are often sorted by class."""
    order = torch.randperm(data.num_samples, generator=random_streams.generator(0, purpose=random_streams.CHOICE))
    return order[:num_samples].sort().values.tolist()


def compare_halves(
    scorer: Scorer, pipeline: Pipeline, data: Data, chosen: Sequence[int], batch_size: int, ranks: Ranks
) -> dict[str, float]:
    """Make the data the scorer's reference; return the values of one random half of them beside the other."""
    order = torch.randperm(len(chosen), generator=random_streams.generator(0, purpose=random_streams.SPLIT)).tolist()
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    everything, first = scorer.reference_builder(), scorer.reference_builder()
    progress = ImageProgress("data", len(order), console=ranks.console())
    with progress.shown():
        for features, numbers in data_features(scorer, pipeline, data, chosen, halves[0], batch_size, ranks):
            everything.add(features, numbers)
            first.add(features, numbers)
            progress.advance(min(len(numbers) * ranks.world_size, len(order) - progress.done))
        scorer.set_reference(first.compute({"file": "half of the data"}))
        for features, numbers in data_features(scorer, pipeline, data, chosen, halves[1], batch_size, ranks):
            everything.add(features, numbers)
            scorer.update(features, numbers)
            progress.advance(min(len(numbers) * ranks.world_size, len(order) - progress.done))
    values = scorer.compute()
    scorer.set_reference(everything.compute({"file": "the data", "num_images": len(chosen)}))
    return values


def compare_with_data(
    scorer: Scorer, pipeline: Pipeline, data: Data, chosen: Sequence[int], batch_size: int, ranks: Ranks
) -> None:
    """Make the data the scorer's reference."""
    builder = scorer.reference_builder()
    for features, numbers in data_features(scorer, pipeline, data, chosen, range(len(chosen)), batch_size, ranks):
        builder.add(features, numbers)
    scorer.set_reference(builder.compute({"file": "the data", "num_images": len(chosen)}))


def data_features(
    scorer: Scorer,
    pipeline: Pipeline,
    data: Data,
    chosen: Sequence[int],
    positions: Sequence[int],
    batch_size: int,
    ranks: Ranks,
) -> Iterator[tuple[dict[str, ImageFeatures], list[int]]]:
    """Yield, batch by batch, the features of this rank's part of the chosen data at these positions, and these."""
    own = [positions[i] for i in ranks.own(len(positions))]
    for start in range(0, len(own), batch_size):
        part = own[start : start + batch_size]
        yield scorer.extract(data_images(pipeline, data, [chosen[i] for i in part])), part


@torch.no_grad()
def data_images(pipeline: Pipeline, data: Data, indices: Sequence[int]) -> Tensor:
    """Return images of the data, uint8 ``(B, C, H, W)``, as the codec decodes them, rounded."""
    return pipeline.decode(data.latents(list(indices)).to(pipeline.device))
