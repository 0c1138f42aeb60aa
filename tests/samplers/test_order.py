"""Errors against the exact flow of Gaussian data."""

import math
from itertools import pairwise

import pytest
import torch

from meanflow.interpolant import expand_times
from meanflow.samplers import FlowEuler, FlowHeun, FlowMapEuler
from meanflow.types import Condition
from tests.gaussian import GaussianFlowMapNetwork, GaussianFlowNetwork

MEANS = torch.tensor([1.5, -0.5], dtype=torch.float64).reshape(2, 1, 1, 1)
COND = Condition(y=torch.tensor([0, 1, 0, 1]))
STD = 0.4


@pytest.fixture
def e() -> torch.Tensor:
    return torch.randn(4, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def exact(e: torch.Tensor) -> torch.Tensor:
    return expand_times(MEANS[COND.y, 0, 0, 0], e) + STD * e


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("shift", [1.0, 1.5])
def test_flow_map_steps_are_exact(e, num_steps, shift):
    x = FlowMapEuler(num_steps, shift=shift)(GaussianFlowMapNetwork(MEANS, STD), e, COND)
    torch.testing.assert_close(x, exact(e), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("sampler_class", "order"), [(FlowEuler, 1), (FlowHeun, 2)])
def test_error_falls_with_the_order_of_the_method(e, sampler_class, order):
    network = GaussianFlowNetwork(MEANS, STD)
    errors = [(sampler_class(n)(network, e, COND) - exact(e)).abs().max().item() for n in (64, 128, 256)]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order, order], abs=0.1)


def test_unguided_flow_moves(e):
    # In the official code a step without guidance leaves the state as it was.
    x = FlowEuler(num_steps=1)(GaussianFlowNetwork(MEANS, STD), e, COND)
    torch.testing.assert_close(x, expand_times(MEANS[COND.y, 0, 0, 0], e).expand_as(x))  # one step lands on the mean
