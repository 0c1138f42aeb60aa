import pytest
import torch

from meanflow.samplers import FlowMapEuler, FlowMapRestart
from meanflow.types import Condition
from tests.gaussian import GaussianFlowMapNetwork

MEANS = torch.tensor([1.5, 0.0], dtype=torch.float64).reshape(2, 1, 1, 1)
STD = 0.4
NUM_SAMPLES = 20_000
COND = Condition(y=torch.zeros(NUM_SAMPLES, dtype=torch.int64))


def test_restarts_keep_the_distribution_and_forget_the_start():
    e, *noise = torch.randn(3, NUM_SAMPLES, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = FlowMapRestart(num_steps=3)(GaussianFlowMapNetwork(MEANS, STD), e, COND, torch.stack(noise))
    # Five standard errors.
    assert x.mean().item() == pytest.approx(1.5, abs=5 * STD / NUM_SAMPLES**0.5)
    assert x.std().item() == pytest.approx(STD, abs=5 * STD / (2 * NUM_SAMPLES) ** 0.5)
    correlation = torch.corrcoef(torch.stack([x.flatten(), e.flatten()]))[0, 1].item()
    assert 0 < correlation < 0.5


def test_one_step_is_one_jump():
    e = torch.ones(NUM_SAMPLES, 1, 1, 1, dtype=torch.float64)
    network = GaussianFlowMapNetwork(MEANS, STD)
    torch.testing.assert_close(FlowMapRestart(1)(network, e, COND), FlowMapEuler(1)(network, e, COND))


@pytest.mark.parametrize(("interpolant", "alpha", "sigma"), [("linear", 0.5, 0.5), ("cosine", 0.5**0.5, 0.5**0.5)])
def test_noise_is_added_along_the_path(interpolant, alpha, sigma):
    cond = Condition(y=torch.zeros(1, dtype=torch.int64))
    e, noise = torch.full((1, 1, 1, 1), 0.7).double(), torch.full((1, 1, 1, 1, 1), -0.3).double()
    network = GaussianFlowMapNetwork(MEANS, STD)
    FlowMapRestart(2, interpolant)(network, e, cond, noise)
    (_, t_0, r_0, _), (z, t_1, r_1, _) = network.calls
    assert (t_0.item(), r_0.item(), t_1.item(), r_1.item()) == (1.0, 0.0, 0.5, 0.0)
    torch.testing.assert_close(z, alpha * (1.5 + STD * e) + sigma * noise[0])
