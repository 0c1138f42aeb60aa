"""Training of a flow network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import override

from meanflow.modules.agreement import require_representation
from meanflow.modules.base import GenerativeModule
from meanflow.types import LatentBatch, LossOutput


class FlowModule(GenerativeModule):
    """Flow matching, with an alignment term if there is a representation.

    Args:
        representation: Frozen encoder of the source images, uint8 ``(B, 3, H, W)`` to ``(B, tokens, dim)``. The
            features of the network are aligned with the encoder's output (REPA).
        arguments: Those of ``GenerativeModule``.

    Raises:
        ValueError: If the network has projectors and there is no representation, or the network has none and there is
            a representation.
    """

    def __init__(self, representation: nn.Module | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        require_representation(self.network, representation)
        self._representation = [] if representation is None else [representation]  # a list: no child of this module

    @override
    def frozen_networks(self) -> list[nn.Module]:
        return super().frozen_networks() + self._representation

    @override
    def loss(self, batch: LatentBatch, generator: torch.Generator) -> LossOutput:
        if not self._representation:
            return super().loss(batch, generator)
        x = batch.sample(generator)
        draws = self.objective.draw(x.shape, generator)
        return self.run_objective(self.network, x, batch.y, draws, self._features(batch))

    @torch.no_grad()
    def _features(self, batch: LatentBatch) -> list[torch.Tensor]:
        if batch.image is None:
            raise ValueError("a representation needs the source images: set datamodule.images=true")
        return [encoder(batch.image) for encoder in self._representation]
