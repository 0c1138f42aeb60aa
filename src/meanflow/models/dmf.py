"""Decoupled MeanFlow: a flow transformer read as a flow map (Lee et al., 2025).

The first ``dmf_depth`` blocks (the encoder) see the time ``t`` of the state. The other blocks and the final layer (the
decoder) see the time ``r`` to go to. With ``r = t`` and before fine-tuning, the network is the flow network that
it was made from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from meanflow.dual import Dual, add, primal
from meanflow.layers import Linear, sinusoidal_embedding
from meanflow.models.backbone import DiffusionTransformer
from meanflow.types import Condition, FlowMapOutput


class DMFTransformer(DiffusionTransformer):
    """Flow map network ``u(z_t, t, r, y)``.

    Args:
        dmf_depth: Number of encoder blocks, from 0 to ``depth``; about 2/3 of the depth in the official models.
        logvar: Whether the network learns the log-variance of its error, a function of ``(t, r)``.
        arguments: The arguments of ``DiffusionTransformer``.

    Raises:
        ValueError: If ``dmf_depth`` is out of range.
    """

    output = FlowMapOutput
    output_field = "u"

    def __init__(self, dmf_depth: int = 20, logvar: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not 0 <= dmf_depth <= len(self.blocks):
            raise ValueError(f"dmf_depth must be from 0 to depth ({len(self.blocks)}), got {dmf_depth}")
        self.dmf_depth = dmf_depth
        self.learns_logvar = logvar
        self.logvar_linear = Linear(256, 1) if logvar else None
        self.init_weights()

    def init_weights(self) -> None:
        """Initialize as ``DiffusionTransformer.init_weights``, with a log-variance of 0."""
        super().init_weights()
        if self.logvar_linear is not None:
            nn.init.zeros_(self.logvar_linear.weight)

    def forward(self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition) -> FlowMapOutput:
        """Return the average velocity from state ``z_t (B, C, H, W)`` at ``t (B,)`` to ``r (B,)``, ``r <= t``."""
        label = self.y_embedder(cond.y)
        c_t, c_r = add(self.t_embedder(t), label), add(self.t_embedder(r), label)
        x = self._tokens(z_t)
        for block in self.blocks[: self.dmf_depth]:
            x = self._run(block, x, c_t)
        for block in self.blocks[self.dmf_depth :]:
            x = self._run(block, x, c_r)
        return FlowMapOutput(self._image(self.final_layer(x, c_r)), self._logvar(primal(t), r))

    def _logvar(self, t: Tensor, r: Tensor) -> Tensor:
        if self.logvar_linear is None:
            return torch.zeros_like(t)
        times = torch.cat([primal(sinusoidal_embedding(time, 128)) for time in (t, r)], dim=-1)
        return self.logvar_linear(times).squeeze(-1)
