"""``torch.compile`` changes no number: value, derivative and gradients on duals, and the whole loss."""

import pytest
import torch
from torch._dynamo.utils import counters

from meanflow.compilation import CompiledObjective, compile_blocks
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.guidance import ModelGuidance
from meanflow.objectives.weighting import AllPairsLogVariance
from meanflow.random_streams import generator
from tests.duals import assert_equal_to_rounding
from tests.networks import dmf, imf, inputs
from tests.objectives import test_imf
from tests.objectives.test_dmf import OMEGA, T_MAX, T_MIN, objective, problem

pytestmark = [
    pytest.mark.slow,
    # torch's compiler imports and calls parts of torch that torch deprecates.
    pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


SIZE = {"depth": 2, "dmf_depth": 1}


def test_value_derivative_and_gradients():
    network = dmf(qk_norm=True, **SIZE)
    z_t, t, r, cond, v = inputs()
    parameters = list(network.parameters())
    results = []
    for model in (torch.compile(network, fullgraph=True), network):
        output, du_dt = value_and_derivative(model, z_t, t, r, cond, v)
        loss = output.u.square().sum() + output.logvar.square().sum()
        assert not du_dt.requires_grad
        results.append([output.u, output.logvar, du_dt, *torch.autograd.grad(loss, parameters)])
    for compiled, eager in zip(*results, strict=True):
        assert_equal_to_rounding(compiled, eager)


@pytest.mark.parametrize(
    ("backend", "activation_checkpointing", "num_batches"),
    # Machine code takes long to make; the other cases stop before that.
    [("inductor", False, 1), ("aot_eager", False, 2), ("aot_eager", True, 2)],
)
def test_loss_with_model_guidance_through_a_network_compiled_in_place(backend, activation_checkpointing, num_batches):
    x, y, draws = problem()
    # Another number of guided samples in the second batch, as in training.
    batches = [draws, draws._replace(dropped=torch.zeros(8, dtype=torch.bool))][:num_batches]
    ours = objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)), AllPairsLogVariance())
    results = []
    for compiled in (True, False):
        network = dmf(activation_checkpointing=activation_checkpointing, **SIZE)
        if compiled:
            network.compile(fullgraph=True, backend=backend)
        losses = [ours(network, x, y, draws).loss for draws in batches]
        gradients = torch.autograd.grad(sum(loss.mean() for loss in losses), list(network.parameters()))
        results.append([*losses, *gradients])
    for compiled, eager in zip(*results, strict=True):
        assert_equal_to_rounding(compiled, eager)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_loss_of_improved_meanflow_through_a_network_compiled_in_place(activation_checkpointing):
    x, y, draws = test_imf.problem()
    # Another number of guided samples in the second batch, as in training.
    batches = [draws, draws._replace(dropped=torch.zeros(8, dtype=torch.bool))]
    results = []
    for compiled in (True, False):
        network = imf(depth=2, activation_checkpointing=activation_checkpointing)
        if compiled:
            network.compile(fullgraph=True, backend="aot_eager")
        losses = [test_imf.objective()(network, x, y, draws).loss for draws in batches]
        gradients = torch.autograd.grad(sum(loss.mean() for loss in losses), list(network.parameters()))
        results.append([*losses, *gradients])
    for compiled, eager in zip(*results, strict=True):
        assert_equal_to_rounding(compiled, eager)


STEPS = {
    "dmf": lambda: (dmf(**SIZE), objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)), AllPairsLogVariance())),
    "imf": lambda: (imf(depth=2), test_imf.objective()),
}


@pytest.mark.parametrize("method", STEPS)
def test_a_whole_step_is_one_graph_for_any_number_of_guided_samples(method):
    network, ours = STEPS[method]()
    compiled = CompiledObjective(ours, backend="eager")  # graphs are what is counted, not what becomes of them
    x, y, _ = problem()
    counters.clear()
    numbers = set()
    for step in range(20):
        draws = ours.draw(x.shape, generator(0, step))
        numbers.add(len(ours.plan(draws, x).evaluations.samples))
        graph, eager = compiled(network, x, y, draws), ours(network, x, y, draws)
        assert_equal_to_rounding(graph.loss, eager.loss)
        for name, samples in eager.by_t.items():
            assert torch.equal(graph.by_t[name].t, samples.t)
            torch.testing.assert_close(graph.by_t[name].value, samples.value)
    assert len(numbers) > 3  # otherwise nothing varied
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


def test_gradients_of_a_step_that_is_one_graph():
    network, ours = STEPS["dmf"]()
    x, y, draws = problem()
    losses = [step(network, x, y, draws).loss.mean() for step in (CompiledObjective(ours, backend="aot_eager"), ours)]
    parameters = list(network.parameters())
    for compiled, eager in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        assert_equal_to_rounding(compiled, eager)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_compiled_blocks(activation_checkpointing):
    x, y, draws = problem()
    ours = objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)), AllPairsLogVariance())
    network = dmf(activation_checkpointing=activation_checkpointing, depth=3, dmf_depth=2)
    parameters = list(network.parameters())
    expected = torch.autograd.grad(ours(network, x, y, draws).loss.mean(), parameters)
    compile_blocks(network, backend="aot_eager", fullgraph=True)
    counters.clear()
    actual = torch.autograd.grad(ours(network, x, y, draws).loss.mean(), parameters)
    # Plain, plain without gradients, on duals with the time t, on duals with the time r; not once per block.
    assert counters["stats"]["unique_graphs"] <= 4 + 2 * activation_checkpointing
    for a, b in zip(actual, expected, strict=True):
        assert_equal_to_rounding(a, b)
