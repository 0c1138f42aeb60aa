import math

import pytest
import torch

from meanflow.interpolant import CosinePath, LinearPath
from meanflow.objectives import FlowMatching, FlowMatchingDraws, alignment_loss, mean_squared_error
from meanflow.objectives.label_drop import IndependentLabelDrop
from meanflow.objectives.times import LogitNormal
from meanflow.random_streams import generator
from meanflow.types import Condition, FlowOutput
from tests.duals import assert_equal_to_rounding, normal
from tests.gaussian import GaussianFlowNetwork
from tests.networks import Recorded, aligned_sit, inputs, sit

NUM_SAMPLES = 20_000


class Shifted:
    """The exact velocity plus a constant."""

    null_label = 1

    def __init__(self, network: GaussianFlowNetwork, shift: float) -> None:
        self.network = network
        self.shift = shift

    def __call__(self, *arguments) -> FlowOutput:
        return FlowOutput(self.network(*arguments).v + self.shift)


def gaussian_losses(t: float, shift: float) -> torch.Tensor:
    """Losses of samples of a Gaussian of mean 0.7 and standard deviation 0.4, all at one time."""
    network = GaussianFlowNetwork(torch.tensor([0.7, 0.0], dtype=torch.float64).reshape(2, 1, 1, 1), std=0.4)
    x, e = 0.7 + 0.4 * normal(NUM_SAMPLES, 1, 1, 1), normal(NUM_SAMPLES, 1, 1, 1, seed=1)
    everyone = torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    draws = FlowMatchingDraws(everyone.bool(), torch.full((NUM_SAMPLES,), t), e)
    return FlowMatching(LinearPath(), LogitNormal())(Shifted(network, shift), x, everyone, draws).loss


@pytest.mark.parametrize("t", [0.0, 0.125, 0.5, 1.0])
def test_expected_loss_of_the_exact_velocity_is_the_conditional_variance(t):
    # Var(e - x | z_t) = std^2 / ((1 - t)^2 std^2 + t^2).
    expected = 0.16 / ((1 - t) ** 2 * 0.16 + t**2)
    losses = gaussian_losses(t, shift=0)
    assert abs(losses.mean().item() - expected) < 5 * losses.std().item() / math.sqrt(NUM_SAMPLES) + 1e-12


@pytest.mark.parametrize("shift", [0.5, -0.1])
@pytest.mark.parametrize("t", [0.125, 0.5])
def test_any_other_velocity_has_a_larger_loss(t, shift):
    excess = gaussian_losses(t, shift) - gaussian_losses(t, 0)
    standard_error = excess.std().item() / math.sqrt(NUM_SAMPLES)
    assert excess.mean().item() > 0
    assert abs(excess.mean().item() - shift**2) < 5 * standard_error


def draws(path=None, **arguments) -> tuple[FlowMatching, torch.Tensor, torch.Tensor, FlowMatchingDraws]:
    objective = FlowMatching(path or LinearPath(), LogitNormal(), **arguments)
    x, t, _, cond, e = inputs()
    return objective, x, cond.y, FlowMatchingDraws(torch.tensor([False, True, False, True]), t, e)


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()])
def test_loss_and_gradients_are_those_of_the_formula(path):
    objective, x, y, given = draws(path)
    network = sit()
    output = objective(network, x, y, given)
    t = given.t[:, None, None, None]
    angle = t * math.pi / 2
    if isinstance(path, LinearPath):
        z_t, v = (1 - t) * x + t * given.e, given.e - x
    else:
        z_t = angle.cos() * x + angle.sin() * given.e
        v = math.pi / 2 * (angle.cos() * given.e - angle.sin() * x)
    labels = Condition(torch.tensor([0, 5, 5, 5]))
    expected = (network(z_t, given.t, given.t, labels).v - v).pow(2).mean((1, 2, 3))
    assert_equal_to_rounding(output.loss, expected)
    parameters = list(network.parameters())
    actual = torch.autograd.grad(output.loss.mean(), parameters)
    for a, b in zip(actual, torch.autograd.grad(expected.mean(), parameters), strict=True):
        assert_equal_to_rounding(a, b)
    assert output.diagnostics.keys() == {"fm_loss"}
    assert not output.diagnostics["fm_loss"].requires_grad
    torch.testing.assert_close(output.diagnostics["fm_loss"], expected.mean().detach())
    assert output.by_t.keys() == {"fm_loss"}
    assert torch.equal(output.by_t["fm_loss"].t, given.t)
    assert_equal_to_rounding(output.by_t["fm_loss"].value, expected.detach())
    assert not output.by_t["fm_loss"].value.requires_grad


def test_one_evaluation_per_sample():
    objective, x, y, given = draws()
    network = Recorded(sit())
    objective(network, x, y, given)
    assert network.calls == [(4, True, False, [0, 5, 5, 5], given.t.tolist())]


def test_alignment_adds_its_weighted_loss_to_every_sample():
    objective, x, y, given = draws(alignment_weight=0.3)
    network = aligned_sit()
    features = [normal(4, 4, 6, seed=20), normal(4, 4, 4, seed=21)]
    aligned, plain = objective(network, x, y, given, features), objective(network, x, y, given)
    path, t = LinearPath(), given.t
    projected = network(path.state(x, given.e, t), t, t, Condition(torch.tensor([0, 5, 5, 5]))).features
    expected = alignment_loss(projected, features)
    assert_equal_to_rounding(aligned.loss, plain.loss + 0.3 * expected)
    torch.testing.assert_close(aligned.diagnostics["alignment_loss"], expected.detach())
    assert not aligned.diagnostics["alignment_loss"].requires_grad
    torch.testing.assert_close(aligned.diagnostics["fm_loss"], plain.diagnostics["fm_loss"])
    gradients = torch.autograd.grad(aligned.loss.mean(), list(network.projectors.parameters()))
    assert all(gradient.any() for gradient in gradients)


def test_alignment_loss_is_minus_the_mean_cosine():
    a, b = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    cosine = sum(a[i, j].dot(b[i, j]) / (a[i, j].norm() * b[i, j].norm()) for i in range(2) for j in range(3))
    assert_equal_to_rounding(alignment_loss([a], [b]), -cosine / 6, relative=1e-13)
    assert alignment_loss([a, b], [2 * a, -3 * b]).item() == pytest.approx(0, abs=1e-15)
    assert alignment_loss([a], [5 * a]).item() == pytest.approx(-1, abs=1e-15)


def test_alignment_needs_a_projector_per_representation():
    objective, x, y, given = draws()
    message = "the network has {} projectors, but there are 1 representations"
    with pytest.raises(ValueError, match=message.format(0)):
        objective(sit(), x, y, given, [normal(4, 4, 6)])
    with pytest.raises(ValueError, match=message.format(2)):
        objective(aligned_sit(), x, y, given, [normal(4, 4, 6)])


def test_mean_squared_error_is_one_number_per_sample_in_the_type_of_the_target():
    prediction, target = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)
    expected = torch.stack([(p - q).square().mean() for p, q in zip(prediction, target, strict=True)])
    assert_equal_to_rounding(mean_squared_error(prediction, target), expected, relative=1e-14)
    assert mean_squared_error(prediction.bfloat16(), target.float()).dtype == torch.float32


def test_draws_are_a_function_of_the_generator():
    objective = FlowMatching(LinearPath(), LogitNormal(-0.4, 1.2), label_drop=IndependentLabelDrop(0.5))
    first = objective.draw((64, 3, 4, 4), generator(0, 5, 1))
    again = objective.draw(torch.Size((64, 3, 4, 4)), generator(0, 5, 1))
    other = objective.draw((64, 3, 4, 4), generator(0, 6, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert [(a.dtype, tuple(a.shape)) for a in first] == [
        (torch.bool, (64,)),
        (torch.float32, (64,)),
        (torch.float32, (64, 3, 4, 4)),
    ]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_labels_are_dropped_with_their_probability(probability):
    objective = FlowMatching(LinearPath(), LogitNormal(), label_drop=IndependentLabelDrop(probability))
    share = objective.draw((20_000, 1, 1, 1), generator(0)).dropped.double().mean().item()
    assert abs(share - probability) <= 5 * math.sqrt(probability * (1 - probability) / 20_000)
