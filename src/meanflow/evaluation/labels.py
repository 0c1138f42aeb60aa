"""Labels of the samples of an evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from meanflow import random_streams


class LabelOrder(ABC):
    """Decides the label of each sample."""

    needs_data: bool = False

    @abstractmethod
    def __call__(self, num_samples: int, num_classes: int, data_labels: Tensor | None = None) -> Tensor:
        """Return labels, int64 ``(num_samples,)``, in ``[0, num_classes)``.

        Args:
            num_samples: Number of samples.
            num_classes: Number of classes.
            data_labels: Labels of the data ``(num_samples,)``, if there are data.
        """

    @property
    def config(self) -> dict[str, object]:
        """Name and settings, for the record."""
        return {"name": type(self).__name__}


@dataclass(frozen=True)
class BalancedLabels(LabelOrder):
    """All classes in turn: 0, 1, ..., 0, 1, ... (iMF, JiT). Numbers of samples per class differ by at most 1."""

    def __call__(self, num_samples: int, num_classes: int, data_labels: Tensor | None = None) -> Tensor:
        """Return the labels. ``data_labels`` are not used."""
        return torch.arange(num_samples) % num_classes


@dataclass(frozen=True)
class RandomLabels(LabelOrder):
    """Classes drawn uniformly (ADM, SiT, EDM2, DMF).

    Args:
        seed: Seed of the labels, not of the noise.
    """

    seed: int = 0

    def __call__(self, num_samples: int, num_classes: int, data_labels: Tensor | None = None) -> Tensor:
        """Return the labels. ``data_labels`` are not used."""
        return torch.randint(
            num_classes, (num_samples,), generator=random_streams.generator(self.seed, purpose=random_streams.LABELS)
        )

    @property
    def config(self) -> dict[str, object]:
        """Name and settings, for the record."""
        return super().config | asdict(self)


@dataclass(frozen=True)
class DataLabels(LabelOrder):
    """The labels of the data that samples are compared with. Frequencies of classes then add nothing to a distance."""

    needs_data = True

    def __call__(self, num_samples: int, num_classes: int, data_labels: Tensor | None = None) -> Tensor:
        """Return the labels of the data.

        Raises:
            ValueError: If there are no data labels, or their number is wrong.
        """
        if data_labels is None or len(data_labels) != num_samples:
            number = "none" if data_labels is None else len(data_labels)
            raise ValueError(f"protocol.labels=DataLabels needs the labels of {num_samples} data, got {number}")
        return data_labels
