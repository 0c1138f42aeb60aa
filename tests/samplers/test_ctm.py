import pytest
import torch

from meanflow.interpolant import CosinePath, LinearPath
from meanflow.samplers import FlowMapCTM, FlowMapCTMVP, FlowMapEuler, FlowMapRestart
from meanflow.types import Condition
from tests.samplers.path_gaussian import MEAN, STD, PathGaussianFlowMap, distribution

PATHS = {"linear": LinearPath(), "cosine": CosinePath()}
COND = Condition(y=torch.zeros(3, dtype=torch.int64))


def draws(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    e, *noise = torch.randn(num_steps, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return e, torch.stack(noise)


@pytest.mark.parametrize("path", PATHS)
def test_gamma_0_takes_euler_steps_and_gamma_1_restarts(path):
    network, (e, noise) = PathGaussianFlowMap(PATHS[path]), draws(4)
    variants = [FlowMapCTMVP(4, path, gamma=0.0, shift=1.5), FlowMapCTM(4, 0.0, shift=1.5)]
    for sampler in variants:  # without fresh noise the path plays no part
        x = sampler(network, e, COND, noise)
        torch.testing.assert_close(x, FlowMapEuler(4, shift=1.5)(network, e, COND), rtol=0, atol=1e-13)

    restarted = FlowMapRestart(4, path, shift=1.5)(network, e, COND, noise)
    x = FlowMapCTMVP(4, path, gamma=1.0, shift=1.5)(network, e, COND, noise)
    torch.testing.assert_close(x, restarted, rtol=0, atol=1e-13)
    x = FlowMapCTM(4, 1.0, shift=1.5)(network, e, COND, noise)
    assert torch.allclose(x, restarted, rtol=0, atol=1e-13) == (path == "linear")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_variance_preserving_variant_keeps_the_distribution(path, gamma, num_steps):
    sampler = FlowMapCTMVP(num_steps, path, gamma=gamma, shift=1.3)
    assert distribution(sampler, PathGaussianFlowMap(PATHS[path])) == pytest.approx((MEAN, STD), abs=1e-12)


def test_the_official_variant_loses_variance_between_its_ends():
    network = PathGaussianFlowMap(LinearPath())
    spread = {gamma: distribution(FlowMapCTM(4, gamma), network) for gamma in (0.0, 0.3, 0.9, 1.0)}
    assert spread[0.0] == pytest.approx((MEAN, STD), abs=1e-12)
    assert spread[1.0] == pytest.approx((MEAN, STD), abs=1e-12)
    for gamma in (0.3, 0.9):
        assert spread[gamma][0] == pytest.approx(MEAN, abs=1e-12)
        assert spread[gamma][1] < 0.98 * STD


@pytest.mark.parametrize("cls", [FlowMapCTM, FlowMapCTMVP])
def test_jumps_go_beyond_the_next_time(cls):
    seen = []

    class Recording(PathGaussianFlowMap):
        def __call__(self, z, t, r, cond):
            seen.append((t[0].item(), r[0].item()))
            return super().__call__(z, t, r, cond)

    e, noise = draws(2)
    cls(2, gamma=0.6)(Recording(LinearPath()), e, COND, noise)
    assert seen == [(1.0, pytest.approx(0.4)), (0.5, 0.0)]  # sqrt(1 - 0.6^2) 0.5


@pytest.mark.parametrize("cls", [FlowMapCTM, FlowMapCTMVP])
@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_gamma_is_a_share(cls, gamma):
    with pytest.raises(ValueError, match=f"gamma must be from 0 .* to 1 .*, got {gamma}"):
        cls(4, gamma=gamma)
