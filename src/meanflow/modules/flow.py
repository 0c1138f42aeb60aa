"""Training of a flow network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from meanflow.models import AlignedSiT
from meanflow.modules.base import GenerativeModule
from meanflow.types import LatentBatch, LossOutput


class FlowModule(GenerativeModule):
    """Flow matching, aligned with a representation where one is given.

    Args:
        representation: Frozen encoder of the source images, uint8 ``(B, 3, H, W)`` to ``(B, tokens, dim)`` (REPA).
        arguments: Those of ``GenerativeModule``.

    Raises:
        ValueError: If the network has projectors and there is no representation, or the other way round.
    """

    def __init__(self, representation: nn.Module | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        if isinstance(self.network, AlignedSiT) != (representation is not None):
            raise ValueError(
                "a network with projectors (network=aligned_sit) and module.representation go together; got "
                f"{type(self.network).__name__} {'without' if representation is None else 'with'} a representation"
            )
        self._representation = [] if representation is None else [representation]  # a list: no child of this module

    def frozen_networks(self) -> list[nn.Module]:
        """Return the representation encoder."""
        return self._representation

    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        """Draw, encode the source images for the alignment term, and call the objective."""
        x = batch.sample(generator)
        draws = self.objective.draw(x.shape, generator)
        return self.losses(self.network, x, batch.y, draws, self._features(batch))

    @torch.no_grad()
    def _features(self, batch: LatentBatch) -> list[torch.Tensor]:
        if self._representation and batch.image is None:
            raise ValueError("a representation needs the source images: set datamodule.images=true")
        return [encoder(batch.image) for encoder in self._representation]
