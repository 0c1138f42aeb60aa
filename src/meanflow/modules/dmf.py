"""Fine-tuning of a flow network into a Decoupled MeanFlow flow map."""

from __future__ import annotations

from typing import Any

from torch import nn

from meanflow.modules.base import GenerativeModule
from meanflow.objectives.guidance import Distillation
from meanflow.objectives.weighting import Unweighted


class DMFModule(GenerativeModule):
    """Decoupled MeanFlow.

    Args:
        arguments: Those of ``GenerativeModule``.

    Raises:
        ValueError: If the network learns a log-variance that the objective does not use, or the other way round.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        unweighted = isinstance(self.objective.weighting, Unweighted)
        if self.network.config["logvar"] == unweighted:
            wanted = str(not unweighted).lower()
            raise ValueError(
                f"network.logvar must be {wanted} for the weighting {type(self.objective.weighting).__name__}"
            )

    def frozen_networks(self) -> list[nn.Module]:
        """Return the teacher, if the guidance distils one."""
        guidance = self.objective.guidance
        return [guidance.teacher] if isinstance(guidance, Distillation) else []
