"""The data modules that training modules can train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from meanflow.pipeline import Pipeline


class StoreConfiguration(Protocol):
    """The description of a latent store, as far as a training module reads it."""

    @property
    def codec(self) -> Mapping[str, object]:
        """Name and arguments of the codec that encoded the store."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent ``(C, H, W)``."""


class Store(Protocol):
    """A latent store, as far as a training module reads it."""

    @property
    def configuration(self) -> StoreConfiguration:
        """Description of the latents."""


class TrainingData(Protocol):
    """A data module that a training module can train on."""

    @property
    def store(self) -> Store:
        """The latent store. The first use opens it."""

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of an epoch on this rank."""

    def require_pipeline(self, pipeline: Pipeline) -> None:
        """Check that the store has the latents that a pipeline is made for.

        Raises:
            ValueError: If it has other latents.
        """
