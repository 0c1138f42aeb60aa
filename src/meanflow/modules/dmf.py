"""Fine-tuning of a flow network into a Decoupled MeanFlow flow map."""

from __future__ import annotations

from torch import nn

from meanflow.guidance import Distillation
from meanflow.modules.base import GenerativeModule


class DMFModule(GenerativeModule):
    """Decoupled MeanFlow. Arguments are those of ``GenerativeModule``."""

    def frozen_networks(self) -> list[nn.Module]:
        """Return the teacher, if the guidance distils one."""
        guidance = self.objective.guidance
        return [guidance.teacher] if isinstance(guidance, Distillation) else []
