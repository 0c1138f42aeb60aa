"""The settings on which a score depends. Scores can be compared if all these settings are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from meanflow.codecs.quantize import ROUNDINGS
from meanflow.evaluation.labels import LabelOrder

# Largest default number of samples of a score. Published FIDs have this number of samples.
MAX_SAMPLES = 50_000


@dataclass(frozen=True)
class Protocol:
    """A named set of settings for a score. The same weights have different scores under different protocols.

    Args:
        name: Name of the protocol.
        metrics: Names of metrics, as in ``meanflow.metrics.catalogue``. The first value of the first metric ranks
            samplers.
        labels: Order of the labels of the samples.
        rounding: Rounding of decoded images to 8 bits: ``round``, ``truncate`` or ``round_half_up``.
        num_samples: Number of samples; ``None`` for the number of data, at most 50,000.
        reference: File of statistics: a local path, ``hf://...`` or ``https://...``; ``None`` for the data of the data
            module.
        reference_origin: Web address of the file, for a person who must fetch it.

    Raises:
        ValueError: If a value is not allowed.
    """

    name: str
    metrics: Sequence[str]
    labels: LabelOrder
    rounding: str
    num_samples: int | None = None
    reference: str | None = None
    reference_origin: str = ""

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"protocol.rounding must be one of {list(ROUNDINGS)}, got {self.rounding!r}")
        if self.num_samples is not None and self.num_samples < 2:
            raise ValueError(f"protocol.num_samples must be at least 2, got {self.num_samples}")
        if not self.metrics:
            raise ValueError("protocol.metrics must name at least one metric")
        object.__setattr__(self, "metrics", tuple(self.metrics))

    @property
    def quantize(self) -> Callable[[Tensor], Tensor]:
        """The function that turns images in [-1, 1] into uint8."""
        return ROUNDINGS[self.rounding]

    @property
    def needs_data(self) -> bool:
        """Whether the protocol needs data, as the reference or for their labels."""
        return self.reference is None or self.labels.needs_data

    @property
    def config(self) -> dict[str, object]:
        """Settings of the protocol, for the record of a score."""
        return {
            "name": self.name,
            "metrics": list(self.metrics),
            "labels": self.labels.config,
            "rounding": self.rounding,
            "num_samples": self.num_samples,
            "reference": self.reference,
        }
