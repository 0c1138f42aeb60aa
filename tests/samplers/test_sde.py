import math
from itertools import pairwise

import pytest
import torch

from meanflow.interpolant import CosinePath, LinearPath
from meanflow.samplers import ELBODiffusion, FlowSDE, SigmaDiffusion
from meanflow.types import Condition
from tests.samplers.path_gaussian import MEAN, STD, PathGaussianFlow, distribution

PATHS = {"linear": LinearPath(), "cosine": CosinePath()}
TIMES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


@pytest.mark.parametrize(
    ("coefficient", "path", "expected"),
    [
        (SigmaDiffusion(), "linear", 2 * TIMES),
        (SigmaDiffusion(), "cosine", 2 * torch.sin(math.pi / 2 * TIMES)),
        (ELBODiffusion(), "linear", 2 * TIMES / (1 - TIMES)),
        (ELBODiffusion(), "cosine", math.pi * torch.tan(math.pi / 2 * TIMES)),
    ],
)
def test_coefficients(coefficient, path, expected):
    torch.testing.assert_close(coefficient(PATHS[path], TIMES), expected)


@pytest.mark.parametrize("path", PATHS)
def test_the_score_is_that_of_the_marginal(path):
    network = PathGaussianFlow(PATHS[path])
    z = torch.linspace(-2, 3, 4, dtype=torch.float64).reshape(4, 1, 1, 1)
    for t in (1e-4, 0.3, 1.0):
        time = torch.tensor(t, dtype=torch.float64)
        v = network(z, time.expand(4), time.expand(4), Condition(torch.zeros(4))).v
        expected = -network.standardize(z, time) / network.scale(time)
        torch.testing.assert_close(FlowSDE(4, path)._score(z, v, t), expected, rtol=1e-9, atol=1e-9)


def assert_weak_order_1(samples: list[tuple[float, float]]) -> None:
    """Errors of mean and standard deviation halve with the step, or are as small as that of the last step (1e-4)."""
    for i, exact in enumerate((MEAN, STD)):
        errors = [abs(sample[i] - exact) for sample in samples]
        for coarse, fine in pairwise(errors):
            assert fine < max(0.6 * coarse, 2e-4), errors


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_error_falls_with_the_steps(path, gamma):
    network = PathGaussianFlow(PATHS[path])
    assert_weak_order_1([distribution(FlowSDE(n, path, gamma=gamma), network) for n in (32, 64, 128, 256)])


@pytest.mark.parametrize("path", PATHS)
def test_error_falls_with_the_steps_of_the_elbo_coefficient(path):
    network = PathGaussianFlow(PATHS[path])
    samples = [distribution(FlowSDE(n, path, "elbo", t_start=1 - 1 / n), network) for n in (32, 64, 128, 256)]
    assert_weak_order_1(samples)


@pytest.mark.parametrize("coefficient", ["sigma", "elbo"])
@pytest.mark.parametrize("path", PATHS)
def test_marginals_are_kept(path, coefficient):
    """Fresh noise takes the place of the start noise; mean and spread stay."""
    sampler = FlowSDE(250, path, coefficient, t_start=0.98, shift=1.2)
    assert distribution(sampler, PathGaussianFlow(PATHS[path])) == pytest.approx((MEAN, STD), abs=5e-3)


def test_without_noise_the_steps_are_eulers():
    network, e = PathGaussianFlow(LinearPath()), torch.linspace(-1, 1, 3, dtype=torch.float64).reshape(3, 1, 1, 1)
    cond = Condition(torch.zeros(3, dtype=torch.int64))
    x = FlowSDE(3, gamma=0.0)(network, e, cond, e.new_ones(2, 3, 1, 1, 1))
    z = e
    for t, r in ((1.0, 0.50005), (0.50005, 1e-4), (1e-4, 0.0)):
        time = torch.full((3,), t, dtype=torch.float64)
        z = z - (t - r) * network(z, time, time, cond).v
    torch.testing.assert_close(x, z)


def test_times_end_with_a_step_of_1e_4_that_adds_no_noise():
    sampler = FlowSDE(4)
    assert sampler.times == pytest.approx([1.0, 0.66670, 0.33340, 1e-4, 0.0], abs=1e-12)
    assert (sampler.num_noises, sampler.nfe) == (3, 4)
    assert FlowSDE(1, t_start=0.5).times == [0.5, 0.0]
    assert FlowSDE(1).num_noises == 0


@pytest.mark.parametrize("path", PATHS)
def test_an_infinite_coefficient_is_refused(path):
    with pytest.raises(ValueError, match=r"t_start must be below 1 for the coefficient 'elbo'"):
        FlowSDE(50, path, "elbo")
    FlowSDE(50, path, "elbo", gamma=0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficient": "SBDM"}, r"coefficient must be one of \['elbo', 'sigma'\], got 'SBDM'"),
        ({"gamma": -0.5}, r"gamma must be at least 0 \(no noise\) and finite, got -0.5"),
        ({"t_start": 1.1}, r"t_start must be above 0.0001 and at most 1, got 1.1"),
        ({"t_start": 0.0}, "t_start must be above 0.0001"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FlowSDE(8, **arguments)
