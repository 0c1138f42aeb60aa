"""What makes two scores comparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from meanflow.codecs.quantize import ROUNDINGS
from meanflow.evaluation.labels import LabelOrder

# Samples of a score unless another number is asked for, as for published FIDs.
MAX_SAMPLES = 50_000


@dataclass(frozen=True)
class Protocol:
    """A named way of measuring. The same weights score differently under each.

    Args:
        name: Its name.
        metrics: Names of metrics, see ``meanflow.metrics.catalogue``; the first value of the first one ranks samplers.
        labels: Classes of the samples.
        rounding: How decoded images become 8-bit ones: ``round``, ``truncate`` or ``round_half_up``.
        num_samples: Number of samples; ``None``: as many as there are data, at most 50,000.
        reference: File of statistics, local, ``hf://...`` or ``https://...``; ``None``: the data that are given.
        reference_origin: Where a person finds the file.

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
        """Turns images in [-1, 1] into uint8."""
        return ROUNDINGS[self.rounding]

    @property
    def needs_data(self) -> bool:
        """Whether data must be given: to compare with, or for their labels."""
        return self.reference is None or self.labels.needs_data

    @property
    def config(self) -> dict[str, Any]:
        """What is recorded beside a score."""
        return {
            "name": self.name,
            "metrics": list(self.metrics),
            "labels": self.labels.config,
            "rounding": self.rounding,
            "num_samples": self.num_samples,
            "reference": self.reference,
        }
