"""The Decoupled MeanFlow loss: exact values for Gaussian data, the official step written out, the cost of a step."""

import math

import pytest
import torch
from torch import Tensor

from meanflow.interpolant import CosinePath, LinearPath
from meanflow.objectives import DecoupledMeanFlow, DMFDraws
from meanflow.objectives.derivative import value_and_derivative
from meanflow.objectives.guidance import Distillation, ModelGuidance, NoGuidance
from meanflow.objectives.label_drop import IndependentLabelDrop
from meanflow.objectives.times import LogitNormal, OrderedPair
from meanflow.objectives.weighting import AllPairsLogVariance, PerSampleLogVariance, Unweighted
from meanflow.random_streams import generator
from meanflow.types import Condition, FlowMapOutput
from tests.duals import assert_equal_to_rounding, jvp, normal
from tests.gaussian import GaussianFlowMapNetwork
from tests.networks import Recorded, dmf, plain_definition, sit

OMEGA, T_MIN, T_MAX = 0.6, 0.25, 0.75
NUM_SAMPLES = 20_000


def objective(guidance=None, weighting=None, path=None, **arguments) -> DecoupledMeanFlow:
    return DecoupledMeanFlow(
        path or LinearPath(),
        LogitNormal(),
        OrderedPair(LogitNormal(0.4), LogitNormal(-1.2)),
        guidance or NoGuidance(),
        weighting or Unweighted(),
        **arguments,
    )


# --- Truth: Gaussian data ---------------------------------------------------------------------------------------------


class Shifted(GaussianFlowMapNetwork):
    """The exact average velocity plus a constant, which has no derivative."""

    shift = 0.0

    def __call__(self, *arguments) -> FlowMapOutput:
        output = super().__call__(*arguments)
        u = output.u
        if isinstance(u, Tensor):
            return output._replace(u=u + self.shift)
        u.primal = u.primal + self.shift
        return output


def gaussian_problem(t: float, r: float) -> tuple[Shifted, Tensor, Tensor, DMFDraws]:
    network = Shifted(torch.tensor([0.7, 0.0], dtype=torch.float64).reshape(2, 1, 1, 1), std=0.4)
    shape = (NUM_SAMPLES, 1, 1, 1)
    x, e_fm, e = 0.7 + 0.4 * normal(*shape), normal(*shape, seed=1), normal(*shape, seed=2)
    everyone = torch.zeros(NUM_SAMPLES, dtype=torch.int64)
    times = (torch.full((NUM_SAMPLES,), s, dtype=torch.float64) for s in (t, t, r))
    return network, x, everyone, DMFDraws(everyone.bool(), *times, e_fm, e)


@pytest.mark.parametrize(("t", "r"), [(0.5, 0.0), (0.9, 0.3), (0.6, 0.6), (1.0, 0.0)])
def test_the_target_of_the_exact_flow_map_is_the_exact_flow_map_in_expectation(t, r):
    network, x, y, draws = gaussian_problem(t, r)
    z_t, v = LinearPath().state(x, draws.e, draws.t), LinearPath().velocity(x, draws.e, draws.t)
    output, du_dt = value_and_derivative(network, z_t, draws.t, draws.r, Condition(y), v)
    residual = output.u - (v - (t - r) * du_dt)
    # Its mean is 0 at every z_t: it has no mean, and no correlation with z_t or its square.
    for test_function in (torch.ones_like(z_t), z_t, z_t**2):
        product = residual * test_function
        assert abs(product.mean().item()) < 5 * product.std().item() / math.sqrt(NUM_SAMPLES)


@pytest.mark.parametrize("shift", [0.4, -0.2])
def test_any_other_flow_map_has_a_larger_loss(shift):
    network, x, y, draws = gaussian_problem(0.8, 0.2)
    exact = objective()(network, x, y, draws).loss
    network.shift = shift
    excess = objective()(network, x, y, draws).loss - exact
    # The shift adds its square to both halves.
    assert abs(excess.mean().item() - shift**2) < 5 * excess.std().item() / math.sqrt(NUM_SAMPLES)
    assert excess.mean().item() > 0


# --- Parity: the official step, literally -----------------------------------------------------------------------------


def literal_loss(
    network, kind: str, weighting: str, path: str, x: Tensor, y: Tensor, draws: DMFDraws, teacher=None
) -> Tensor:
    """The official order of operations: every forward on the full batch, ``torch.func.jvp`` over the whole network."""

    def column(a: Tensor) -> Tensor:
        return a[:, None, None, None]

    def interpolate(t: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        t = column(t)
        if path == "linear":
            return (1 - t) * x + t * e, e - x
        c, s = torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)
        return c * x + s * e, math.pi / 2 * (c * e - s * x)

    def model(z, t, r, y):
        output = network(z, t, r, Condition(y))
        return output.u, output.logvar

    @torch.no_grad()
    def target(z: Tensor, t: Tensor, v: Tensor) -> Tensor:
        inside = (t >= T_MIN) & (t <= T_MAX)
        if kind == "none":
            return v
        if kind == "model":
            v_cond, v_uncond = model(z, t, t, y)[0], model(z, t, t, null)[0]
            return torch.where(column(inside & ~draws.dropped), v + OMEGA * (v_cond - v_uncond), v)
        v_cond, v_uncond = teacher(z, t, t, Condition(y)).v, teacher(z, t, t, Condition(null)).v
        return torch.where(column(inside), v_uncond + OMEGA * (v_cond - v_uncond), v_cond)

    def weighted(prediction: Tensor, target: Tensor, lv: Tensor) -> Tensor:
        error = (prediction - target.detach()).pow(2).mean((1, 2, 3))
        if weighting == "unweighted":
            return error
        if weighting == "all_pairs":
            lv = column(lv)  # the official shape, (B, 1, 1, 1) against (B,)
        return torch.log(torch.exp(-lv) * error + 0.01) + lv

    null = torch.full_like(y, network.null_label)
    y = torch.where(draws.dropped, null, y)
    z_fm, v_fm = interpolate(draws.t_fm, draws.e_fm)
    z_t, v_t = interpolate(draws.t, draws.e)
    u_fm, lv_fm = model(z_fm, draws.t_fm, draws.t_fm, y)
    v_g_fm, v_g = target(z_fm, draws.t_fm, v_fm).detach(), target(z_t, draws.t, v_t).detach()
    (u, lv), (du_dt, _) = jvp(
        lambda z, t, r: model(z, t, r, y),
        (z_t, draws.t, draws.r),
        (v_g, torch.ones_like(draws.t), torch.zeros_like(draws.r)),
    )
    u_target = (v_g + column(draws.r - draws.t) * du_dt).detach()
    return 0.5 * (weighted(u_fm, v_g_fm, lv_fm) + weighted(u, u_target, lv))


def problem() -> tuple[Tensor, Tensor, DMFDraws]:
    """Eight samples: dropped labels inside and outside the interval, times on both ends of it, r = t, an own null."""
    x = normal(8, 3, 4, 4)
    y = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    draws = DMFDraws(
        dropped=torch.tensor([False, True, False, False, True, False, False, False]),
        t_fm=torch.tensor([0.3, 0.4, 0.9, T_MIN, 0.95, 0.6, 0.1, T_MAX], dtype=torch.float64),
        t=torch.tensor([T_MAX, 0.5, 0.2, 0.7, 0.6, 0.99, T_MIN, 0.4], dtype=torch.float64),
        r=torch.tensor([0.1, 0.5, 0.1, 0.0, 0.3, 0.2, T_MIN, 0.39], dtype=torch.float64),
        e_fm=normal(8, 3, 4, 4, seed=1),
        e=normal(8, 3, 4, 4, seed=2),
    )
    return x, y, draws


# Guided: not dropped and with t in the closed interval.
GUIDED_FM = [0, 3, 5, 7]
GUIDED_MF = [0, 3, 6, 7]
GUIDANCES = {
    "none": lambda teacher: NoGuidance(),
    "model": lambda teacher: ModelGuidance(OMEGA, (T_MIN, T_MAX)),
    "distillation": lambda teacher: Distillation(teacher, OMEGA, (T_MIN, T_MAX)),
}
WEIGHTINGS = {
    "unweighted": Unweighted(),
    "per_sample": PerSampleLogVariance(),
    "all_pairs": AllPairsLogVariance(),
}


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", GUIDANCES)
def test_loss_and_gradients_are_those_of_the_literal_step(kind, weighting, path):
    network = dmf(qk_norm=True, activation_checkpointing=weighting == "per_sample")
    teacher = sit(seed=7)
    x, y, draws = problem()
    ours = objective(
        GUIDANCES[kind](teacher), WEIGHTINGS[weighting], {"linear": LinearPath(), "cosine": CosinePath()}[path]
    )
    loss = ours(network, x, y, draws).loss
    expected = literal_loss(plain_definition(network), kind, weighting, path, x, y, draws, teacher)
    if weighting == "all_pairs":
        assert expected.shape == (8, 1, 1, 8)
        expected = expected[:, 0, 0]
    assert_equal_to_rounding(loss, expected)

    parameters = [
        parameter
        for name, parameter in network.named_parameters()
        if weighting != "unweighted" or not name.startswith("logvar")
    ]
    actual = torch.autograd.grad(loss.mean(), parameters)
    for a, b in zip(actual, torch.autograd.grad(expected.mean(), parameters), strict=True):
        assert_equal_to_rounding(a, b)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_guidance_changes_the_loss_of_the_guided_samples_only():
    # Otherwise the comparison above could not see a wrong interval.
    x, y, draws = problem()
    network = dmf()
    plain = objective()(network, x, y, draws).loss
    guided = objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)))(network, x, y, draws).loss
    changed = (plain - guided).abs() > 1e-6
    assert changed.nonzero().flatten().tolist() == sorted({*GUIDED_FM, *GUIDED_MF} - {5})  # 5 has the null label
    assert torch.equal(plain[~changed][[0, 2]], guided[~changed][[0, 2]])


# --- Cost -------------------------------------------------------------------------------------------------------------


def test_without_guidance_two_evaluations():
    x, y, draws = problem()
    network = Recorded(dmf())
    objective()(network, x, y, draws)
    labels = [0, 5, 2, 3, 5, 5, 0, 1]
    assert network.calls == [
        (8, True, False, labels, draws.t_fm.tolist()),
        (8, True, True, labels, draws.t.tolist()),
    ]


def test_model_guidance_evaluates_guided_samples_only_in_one_batch_without_gradients():
    x, y, draws = problem()
    network = Recorded(dmf())
    objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)))(network, x, y, draws)
    assert [call[:3] for call in network.calls] == [(8, True, False), (12, False, False), (8, True, True)]
    _, _, _, labels, times = network.calls[1]
    # The flow-matching half has its conditional velocity already: null labels only. The other half needs both.
    t_fm, t = draws.t_fm[GUIDED_FM].tolist(), draws.t[GUIDED_MF].tolist()
    expected = [*((5, s) for s in t_fm), *((5, s) for s in t), *zip([0, 3, 0, 1], t, strict=True)]
    assert sorted(zip(labels, times, strict=True)) == sorted(expected)


def test_model_guidance_of_nobody_costs_nothing():
    x, y, draws = problem()
    for quiet in (
        draws._replace(dropped=torch.ones(8, dtype=torch.bool)),
        draws._replace(t_fm=torch.full((8,), 0.9).double(), t=torch.full((8,), 0.8).double()),
    ):
        network = Recorded(dmf())
        output = objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)))(network, x, y, quiet)
        assert [call[:3] for call in network.calls] == [(8, True, False), (8, True, True)]
        assert torch.equal(output.loss, objective()(network, x, y, quiet).loss)
        assert output.diagnostics["share_guided"] == 0


def test_distillation_evaluates_the_teacher_once_and_the_student_twice():
    x, y, draws = problem()
    network, teacher = Recorded(dmf()), Recorded(sit(seed=7))
    objective(Distillation(teacher, OMEGA, (T_MIN, T_MAX)))(network, x, y, draws)
    assert [call[:3] for call in network.calls] == [(8, True, False), (8, True, True)]
    # Everybody with the own label, the guided ones without.
    assert [call[:3] for call in teacher.calls] == [(8 + 8 + 4 + 4, False, False)]
    assert teacher.calls[0][3].count(5) == 2 * 3 + 8


# --- Draws, gradients, diagnostics ------------------------------------------------------------------------------------


def test_targets_are_not_tracked():
    x, y, draws = problem()
    network, seen = dmf(), []

    class Spy(ModelGuidance):
        def targets(self, model, query, plan):
            assert not query.v_cond.requires_grad
            seen.append(super().targets(model, query, plan))
            return seen[0]

    objective(Spy(OMEGA, (T_MIN, T_MAX)))(network, x, y, draws)
    assert len(seen) == 1
    assert not seen[0].requires_grad


def test_diagnostics_are_means_and_not_tracked():
    x, y, draws = problem()
    network = dmf()
    output = objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)), PerSampleLogVariance())(network, x, y, draws)
    assert output.diagnostics.keys() == {"fm_loss", "mf_loss", "du_dt_norm", "share_guided", "logvar"}
    assert not any(value.requires_grad for value in output.diagnostics.values())
    unweighted = objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)))(network, x, y, draws)
    total = output.diagnostics["fm_loss"] + output.diagnostics["mf_loss"]
    torch.testing.assert_close(0.5 * total, unweighted.loss.mean().detach())
    assert output.diagnostics["share_guided"] == 8 / 16


def test_samples_by_time_are_those_of_the_means():
    x, y, draws = problem()
    output = objective(ModelGuidance(OMEGA, (T_MIN, T_MAX)))(dmf(), x, y, draws)
    times = {"fm_loss": draws.t_fm, "mf_loss": draws.t, "du_dt_norm": draws.t}
    assert output.by_t.keys() == times.keys()
    for name, samples in output.by_t.items():
        assert torch.equal(samples.t, times[name])
        assert samples.value.shape == (8,)
        assert not samples.value.requires_grad
        assert torch.equal(samples.value.mean(), output.diagnostics[name])
    # Sample by sample, and not only on average.
    errors = 0.5 * (output.by_t["fm_loss"].value + output.by_t["mf_loss"].value)
    torch.testing.assert_close(errors, output.loss.detach())


def test_draws_are_a_function_of_the_generator():
    ours = objective(label_drop=IndependentLabelDrop(0.5))
    first = ours.draw((64, 3, 4, 4), generator(0, 5, 1))
    again = ours.draw(torch.Size((64, 3, 4, 4)), generator(0, 5, 1))
    other = ours.draw((64, 3, 4, 4), generator(0, 5, 2))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert (first.r <= first.t).all()
    assert not torch.equal(first.e, first.e_fm)
    assert first.dropped.dtype == torch.bool
    assert [tuple(a.shape) for a in first] == [(64,)] * 4 + [(64, 3, 4, 4)] * 2


@pytest.mark.parametrize("guidance", ["none", "model", "distillation"])
def test_a_float64_network_takes_the_float32_times_that_are_drawn(guidance):
    ours = objective(GUIDANCES[guidance](sit(seed=7)), label_drop=IndependentLabelDrop(0.0))
    draws = ours.draw((8, 3, 4, 4), generator(0))
    assert draws.t.dtype == torch.float32
    x, y, _ = problem()
    network = dmf()
    wide = DMFDraws(draws.dropped, *(a.double() for a in draws[1:]))
    assert_equal_to_rounding(ours(network, x, y, draws).loss, ours(network, x, y, wide).loss)
