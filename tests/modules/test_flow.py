"""Flow training with representation alignment."""

import pytest
import torch

from meanflow.codecs import IdentityCodec
from meanflow.codecs.normalization import identity
from meanflow.interpolant import LinearPath
from meanflow.models import AlignedSiT
from meanflow.modules import FlowModule
from meanflow.objectives import FlowMatching
from meanflow.objectives.times import LogitNormal
from meanflow.pipeline import Pipeline
from meanflow.samplers import FlowEuler
from meanflow.types import LatentBatch
from tests import tiny


class PatchMeans(torch.nn.Module):
    """Stands for a frozen encoder: the mean color of each of four patches, seven times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, images):
        patches = images.float().unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(1, 4, 5)).flatten(1)
        return self.weight * patches[..., None].repeat(1, 1, 7)


@pytest.fixture
def module():
    network = tiny.randomized(
        AlignedSiT(**tiny.NETWORK, alignment_depth=1, alignment_dims=[7], projector_dim=8), seed=0
    )
    return FlowModule(
        representation=PatchMeans(),
        pipeline=Pipeline(network, IdentityCodec(1), identity(1), FlowEuler(2)),
        objective=FlowMatching(LinearPath(), LogitNormal()),
        optimizer=torch.optim.AdamW,
    )


def test_alignment_enters_the_loss_and_reaches_the_projectors(module):
    batch = LatentBatch(
        torch.randn(4, 1, 4, 4), None, torch.tensor([0, 1, 2, 0]), torch.randint(256, (4, 3, 4, 4), dtype=torch.uint8)
    )
    output = module.loss(batch, torch.Generator().manual_seed(0))
    assert -1 <= output.diagnostics["alignment_loss"] <= 1
    output.loss.mean().backward()
    assert all(value.grad is not None for value in module.network.projectors.parameters())


def test_the_encoder_is_neither_trained_nor_saved(module):
    assert not any("representation" in key for key in module.state_dict())
    assert module.frozen_networks()[0].weight.item() == 1


def test_alignment_needs_the_source_images(module):
    with pytest.raises(ValueError, match=r"datamodule\.images=true"):
        module.loss(LatentBatch(torch.randn(2, 1, 4, 4), None, torch.tensor([0, 1])), torch.Generator())
