"""The official training steps in the benchmarks compute the same numbers as the steps of this project."""

import pytest
import torch

from benchmarks.baseline import Baseline
from benchmarks.cases import Case
from benchmarks.train_step import Count
from meanflow.interpolant import LinearPath
from meanflow.objectives import FlowMatching, FlowMatchingDraws
from meanflow.objectives.guidance import Distillation, ModelGuidance, NoGuidance
from meanflow.objectives.times import LogitNormal
from meanflow.objectives.weighting import AllPairsLogVariance, PerSampleLogVariance
from tests.duals import assert_equal_to_rounding, normal
from tests.networks import dmf, imf, plain_definition, sit
from tests.objectives import test_dmf, test_imf


def flow_problem():
    x, y, draws = test_dmf.problem()
    return FlowMatching(LinearPath(), LogitNormal()), sit(), (x, y, FlowMatchingDraws(draws.dropped, draws.t, draws.e))


def dmf_problem(guidance, weighting):
    return test_dmf.objective(guidance, weighting), dmf(qk_norm=True), test_dmf.problem()


def imf_problem():
    return test_imf.objective(p=0.5), imf(), test_imf.problem()


# At its first forward derivative torch compiles its own decompositions with a function that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

SETTINGS = (test_dmf.OMEGA, (test_dmf.T_MIN, test_dmf.T_MAX))
PROBLEMS = {
    "flow": flow_problem,
    "dmf_none": lambda: dmf_problem(NoGuidance(), PerSampleLogVariance()),
    "dmf_mg": lambda: dmf_problem(ModelGuidance(*SETTINGS), AllPairsLogVariance()),
    "dmf_distill": lambda: dmf_problem(Distillation(sit(seed=7), *SETTINGS), AllPairsLogVariance()),
    "imf": imf_problem,
}


@pytest.mark.parametrize("method", PROBLEMS)
def test_loss_and_gradients_are_ours(method):
    objective, network, (x, y, draws) = PROBLEMS[method]()
    parameters = list(network.parameters())
    losses = [
        objective(network, x, y, draws).loss.mean(),
        Baseline(objective, plain_definition(network))(network, x, y, draws).mean(),
    ]
    assert_equal_to_rounding(*losses)
    for ours, official in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        assert_equal_to_rounding(ours, official)


@pytest.mark.slow
def test_a_step_of_decoupled_mean_flow_takes_three_quarters_of_the_official_operations():
    count = Count(Case("dmf_mg", "S/2", 32, (8,)))
    # Fused attention makes its scores again in the backward pass; without that it is 12.0.
    assert count.official_forwards() == pytest.approx(12.0, abs=0.06)
    assert count.our_forwards() <= 9.2


@pytest.mark.slow
def test_a_step_of_improved_mean_flow_takes_less_than_four_fifths_of_the_official_operations():
    case = Case("imf", "B/2", 32, (8,))
    assert case.official_forwards == 108 / 12
    assert Count(case).our_forwards() <= 0.8 * case.official_forwards


def test_attention_of_the_differentiated_network_may_be_another():
    # What the benchmark does: fused attention wherever nothing is differentiated forward.
    objective, network, (x, y, draws) = PROBLEMS["dmf_mg"]()
    assert network.config["attention"] == "sdpa"
    assert plain_definition(network).config["attention"] == "reference"
    other = normal(*x.shape, seed=9)
    losses = [
        Baseline(objective, plain_definition(network))(model, other, y, draws).mean()
        for model in (network, plain_definition(network))
    ]
    assert_equal_to_rounding(*losses)
