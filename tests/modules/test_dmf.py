"""What a Decoupled MeanFlow module checks."""

import pytest
import torch

from meanflow.objectives.guidance import Distillation
from meanflow.objectives.weighting import Unweighted
from tests import tiny


def test_the_log_variance_must_be_used():
    """Parameters without a gradient would stop a run in several processes."""
    objective = tiny.dmf_module().objective
    objective.weighting = Unweighted()
    with pytest.raises(ValueError, match=r"network\.logvar must be false for the weighting Unweighted"):
        tiny.dmf_module(objective=objective)


def test_the_teacher_must_be_a_flow(store):
    module = tiny.dmf_module(guidance=Distillation(tiny.dmf_pipeline().network, omega=1.5))
    batch = next(iter(tiny.datamodule(store).train_dataloader()))
    with pytest.raises(ValueError, match="the teacher must be a flow network, got one that returns FlowMapOutput"):
        module.loss(batch, torch.Generator())
