"""Affine maps."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from meanflow.dual import Dual, make_dual


class Linear(nn.Linear):
    """``nn.Linear`` for tensors and duals ``(..., in_features)``."""

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:  # type: ignore[override]
        """Map the last axis to ``out_features``. The bias does not enter the tangent."""
        if isinstance(x, Dual):
            return make_dual(super().forward(x.primal), lambda: functional.linear(x.tangent, self.weight))
        return super().forward(x)
