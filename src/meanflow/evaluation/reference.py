"""The reference of a score: a file of statistics, or data. Generated images are compared with the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol as Interface

import torch
from rich.console import Console
from torch import Tensor

from meanflow import random_streams
from meanflow.display.progress import ImageProgress
from meanflow.distributed import Ranks, first_rank_first
from meanflow.evaluation.protocol import Protocol
from meanflow.evaluation.scorer import Scorer
from meanflow.files.npz_images import NpzImages
from meanflow.files.remote import local_file
from meanflow.metrics.features import ImageFeatures
from meanflow.metrics.reference import Reference
from meanflow.metrics.reference_file import read_reference
from meanflow.pipeline import Pipeline

# Takes the features of a batch of images by the name of the extractor, and the numbers of the images.
FeatureTaker = Callable[[Mapping[str, ImageFeatures], Sequence[int]], None]


class Data(Interface):
    """Real images that generated ones are compared with: a data module of a latent store."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        ...

    @property
    def labels(self) -> Tensor:
        """Labels of the samples, int64 ``(num_samples,)``."""
        ...

    def latents(self, indices: Sequence[int]) -> Tensor:
        """Return normalized latents ``(len(indices), C, H, W)``."""
        ...

    def require_pipeline(self, pipeline: Pipeline) -> None:
        """Check that a pipeline is made for these latents.

        Raises:
            ValueError: If the pipeline is made for other latents.
        """
        ...


def prepare_scorer(
    scorer: Scorer,
    protocol: Protocol,
    device: torch.device | str,
    batch_size: int = 256,
    ranks: Ranks | None = None,
) -> None:
    """Load the weights of the extractors and, if the protocol names a file of statistics, compare with that file.

    All ranks must call this function. The first rank goes first, so that each file is downloaded once.

    Raises:
        FileNotFoundError: If a file is missing and cannot be downloaded.
        ValueError: If the file lacks statistics that a metric needs, or other weights made its features.
    """
    ranks = ranks or Ranks()
    reference = None
    with first_rank_first(ranks):
        if protocol.reference is not None:
            reference = protocol_reference(protocol)
        scorer.prepare()
    if reference is not None:
        compare_with_file(scorer, reference, device, batch_size, ranks)


def protocol_reference(protocol: Protocol) -> Reference:
    """Read the file of statistics that a protocol names.

    Raises:
        FileNotFoundError: If the file is missing and cannot be downloaded. The message names the origin of the file.
        ValueError: If the protocol names no file, or the file holds no statistics.
    """
    if protocol.reference is None:
        raise ValueError(f"protocol {protocol.name} compares with data, not with a file")
    try:
        return read_reference(local_file(protocol.reference))
    except FileNotFoundError as error:
        origin = f"; it comes from {protocol.reference_origin}" if protocol.reference_origin else ""
        raise FileNotFoundError(
            f"the reference of protocol {protocol.name}: {error}{origin}. Put it there, or name "
            "another file (evaluate.py reference=FILE, train.py protocol.reference=FILE), or choose protocol=offline"
        ) from error


def compare_with_file(
    scorer: Scorer,
    reference: Reference,
    device: torch.device | str,
    batch_size: int = 256,
    ranks: Ranks | None = None,
) -> None:
    """Make the statistics of a file the scorer's reference.

    Some metrics need features of real images. A file of ADM holds the real images instead of their features. This
    function then computes the features. All ranks must call it.

    Raises:
        ValueError: If the file lacks statistics that a metric needs, or other weights made its features.
    """
    missing = {metric.extractor for metric in scorer.metrics if metric.needs_features} - reference.features.keys()
    if missing and reference.origin["has_images"]:
        reference = with_features(reference, scorer, device, batch_size, ranks or Ranks())
    scorer.set_reference(reference)


def with_features(
    reference: Reference, scorer: Scorer, device: torch.device | str, batch_size: int, ranks: Ranks
) -> Reference:
    """Compute the features of the images in a reference's file. Return the reference together with these features."""
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
    """Return the indices of random data, in ascending order.

    The first data of a store are no fair choice, because they often belong to one class.
    """
    order = torch.randperm(data.num_samples, generator=random_streams.generator(0, purpose=random_streams.CHOICE))
    return order[:num_samples].sort().values.tolist()


class DataReference:
    """Random data as the reference of a scorer.

    The images are decoded from the latents. If the codec loses details, the reference lacks these details too.

    Args:
        data: The data.
        num_samples: Number of data to choose.
        batch_size: Images on each rank at a time.
        ranks: This process among the processes that share the work. All processes must call the methods.
        console: Console for the progress.

    Attributes:
        indices: Indices of the chosen data, in ascending order.
        labels: Labels of the chosen data, int64 ``(num_samples,)``.
    """

    def __init__(self, data: Data, num_samples: int, batch_size: int, ranks: Ranks, console: Console) -> None:
        self.data = data
        self.batch_size = batch_size
        self.ranks = ranks
        self.console = console
        self.indices = chosen_data(data, num_samples)
        self.labels = data.labels[self.indices]

    def compare(self, scorer: Scorer, pipeline: Pipeline) -> None:
        """Make the data the scorer's reference."""
        everything = scorer.reference_builder()
        with self._progress().shown() as progress:
            self._extract(scorer, pipeline, range(len(self.indices)), [everything.add], progress)
        scorer.set_reference(everything.compute(self._origin))

    def compare_halves(self, scorer: Scorer, pipeline: Pipeline) -> dict[str, float]:
        """Compare one random half of the data with the other half, then make all data the scorer's reference.

        Returns:
            Values of the first half, with the second half as the reference, by name.
        """
        generator = random_streams.generator(0, purpose=random_streams.SPLIT)
        order = torch.randperm(len(self.indices), generator=generator).tolist()
        everything, half = scorer.reference_builder(), scorer.reference_builder()
        with self._progress().shown() as progress:
            self._extract(scorer, pipeline, order[: len(order) // 2], [everything.add, half.add], progress)
            scorer.set_reference(half.compute({"file": "half of the data"}))
            self._extract(scorer, pipeline, order[len(order) // 2 :], [everything.add, scorer.update], progress)
        values = scorer.compute()
        scorer.set_reference(everything.compute(self._origin))
        return values

    def _extract(
        self,
        scorer: Scorer,
        pipeline: Pipeline,
        positions: Sequence[int],
        takers: Sequence[FeatureTaker],
        progress: ImageProgress,
    ) -> None:
        """Hand the features of data to each taker, batch by batch. Each rank does its part of the positions."""
        own = [positions[i] for i in self.ranks.own(len(positions))]
        for start in range(0, len(own), self.batch_size):
            batch = own[start : start + self.batch_size]
            with torch.no_grad():
                latents = self.data.latents([self.indices[position] for position in batch])
                images = pipeline.decode(latents.to(pipeline.device))
            features = scorer.extract(images)
            for take in takers:
                take(features, batch)
            progress.advance(min(len(batch) * self.ranks.world_size, progress.total - progress.done))

    def _progress(self) -> ImageProgress:
        return ImageProgress("data", len(self.indices), console=self.console)

    @property
    def _origin(self) -> dict[str, object]:
        return {"file": "the data", "num_images": len(self.indices)}
