"""SiT: a transformer that predicts the velocity of a flow (Ma et al., 2024, arXiv:2401.08740)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from meanflow.dual import Dual, add, primal
from meanflow.layers import Linear, SiLU
from meanflow.models.backbone import DiffusionTransformer
from meanflow.types import Condition, FlowOutput


class SiT(DiffusionTransformer):
    """Flow network ``v(z_t, t, y)``.

    Args:
        arguments: The arguments of ``DiffusionTransformer``.
    """

    output = FlowOutput
    output_field = "v"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.init_weights()

    def forward(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition) -> FlowOutput:
        """Return the velocity at state ``z_t (B, C, H, W)`` and times ``t (B,)``.

        ``r`` is not used: a flow knows one time. All networks take the same arguments.
        """
        c = add(self.t_embedder(t), self.y_embedder(cond.y))
        x = self._tokens(z_t)
        features: tuple[Tensor, ...] = ()
        for number, block in enumerate(self.blocks, start=1):
            x = self._run(block, x, c)
            features += self._features(x, number)
        return FlowOutput(self._image(self.final_layer(x, c)), features)

    def _features(self, x: Tensor | Dual, block_number: int) -> tuple[Tensor, ...]:
        return ()


class AlignedSiT(SiT):
    """SiT with projectors of hidden tokens onto a representation (REPA: Yu et al., 2024, arXiv:2410.06940).

    Args:
        alignment_depth: Number of the block after which tokens are projected, from 1 to ``depth``.
        alignment_dims: Width of each representation.
        projector_dim: Width of the hidden layers of the projectors.
        arguments: The arguments of ``DiffusionTransformer``.

    Raises:
        ValueError: If ``alignment_depth`` is out of range.
    """

    def __init__(
        self,
        alignment_depth: int = 8,
        alignment_dims: Sequence[int] = (768,),
        projector_dim: int = 2048,
        **arguments: Any,
    ) -> None:
        DiffusionTransformer.__init__(self, **arguments)
        if not 1 <= alignment_depth <= len(self.blocks):
            raise ValueError(f"alignment_depth must be from 1 to depth ({len(self.blocks)}), got {alignment_depth}")
        self.alignment_depth = alignment_depth
        hidden_size = self.config["hidden_size"]
        self.projectors = nn.ModuleList(
            nn.Sequential(
                Linear(hidden_size, projector_dim),
                SiLU(),
                Linear(projector_dim, projector_dim),
                SiLU(),
                Linear(projector_dim, dim),
            )
            for dim in alignment_dims
        )
        self.init_weights()

    def _features(self, x: Tensor | Dual, block_number: int) -> tuple[Tensor, ...]:
        if block_number != self.alignment_depth or not self.training:  # only training reads features
            return ()
        return tuple(projector(primal(x)) for projector in self.projectors)
