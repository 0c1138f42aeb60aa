"""The improved MeanFlow loss: the official step written out, the cost of a step, and the draws of a step."""

import pytest
import torch
from torch import Tensor

from meanflow.objectives import IMFDraws, ImprovedMeanFlow, IndependentLabelDrop, LeadingLabelDrop
from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.objectives.imf import guided_velocity
from meanflow.objectives.times import LogitNormal, PartlyEqualPair
from meanflow.objectives.weighting import AdaptiveWeight
from meanflow.random_streams import generator
from meanflow.types import Condition
from tests.duals import assert_equal_to_rounding, jvp, normal
from tests.networks import Recorded, imf, plain_definition


def objective(p: float = 1.0, eps: float = 0.01, share: float = 0.5, label_drop=None) -> ImprovedMeanFlow:
    times = LogitNormal(-0.4, 1.0)
    return ImprovedMeanFlow(
        PartlyEqualPair(times, times, share),
        PowerLawScale(1.0),
        UniformInterval(),
        label_drop or IndependentLabelDrop(0.1),
        AdaptiveWeight(p, eps),
    )


def problem() -> tuple[Tensor, Tensor, IMFDraws]:
    """Eight samples, those with r = t not in front.

    Of the others, one is on each end of its interval, one beyond it with the label kept and one with the label
    dropped; of those with r = t, one has a dropped label, and one has the null label from the start.
    """
    x = normal(8, 3, 4, 4)
    y = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])

    def times(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    draws = IMFDraws(
        dropped=torch.tensor([False, True, False, False, True, False, False, False]),
        r_equals_t=torch.tensor([False, True, False, True, False, True, False, False]),
        t=times(0.3, 0.5, 0.7, 0.95, 0.6, 0.2, 0.9, 0.4),
        r=times(0.1, 0.5, 0.0, 0.95, 0.3, 0.2, 0.2, 0.4),
        omega=times(2.0, 3.0, 1.5, 8.0, 4.0, 5.0, 6.0, 2.5),
        t_min=times(0.3, 0.0, 0.2, 0.0, 0.1, 0.0, 0.4, 0.1),
        t_max=times(0.8, 1.0, 0.7, 1.0, 0.9, 1.0, 0.8, 0.9),
        e=normal(8, 3, 4, 4, seed=1),
    )
    return x, y, draws


FLOW, FLOW_MAP, GUIDED = [1, 3, 5], [0, 2, 4, 6, 7], [0, 2, 3, 5, 7]


# --- Parity: the official step, literally -----------------------------------------------------------------------------


def literal_guidance(network, z_t: Tensor, v_t: Tensor, y: Tensor, draws: IMFDraws) -> tuple[Tensor, Tensor]:
    """Both velocities of all samples, whoever needs them."""
    ones, zeros = torch.ones_like(draws.t), torch.zeros_like(draws.t)
    inside = (draws.t >= draws.t_min) & (draws.t <= draws.t_max)
    w = torch.where(draws.r_equals_t | inside, draws.omega, ones)
    with torch.no_grad():
        null = torch.full_like(y, network.null_label)
        v_c = network(z_t, draws.t, draws.t, Condition(y, w, zeros, ones)).v
        v_u = network(z_t, draws.t, draws.t, Condition(null, ones, zeros, ones)).v
    v_g = v_t + (1 - 1 / w)[:, None, None, None] * (v_c - v_u)
    return torch.where(draws.dropped[:, None, None, None], v_t, v_g), v_c


def literal_loss(network, p: float, eps: float, x: Tensor, y: Tensor, draws: IMFDraws) -> Tensor:
    """The official order of operations: every forward on the full batch, ``torch.func.jvp`` over the whole network."""
    t, h = draws.t[:, None, None, None], (draws.t - draws.r)[:, None, None, None]
    z_t, v_t = (1 - t) * x + t * draws.e, draws.e - x
    v_g, v_c = literal_guidance(network, z_t, v_t, y, draws)
    labels = torch.where(draws.dropped, network.null_label, y)

    def u_and_v(z_t, t, r):
        output = network(z_t, t, r, Condition(labels, draws.omega, draws.t_min, draws.t_max))
        return output.u, output.v

    tangents = (v_c, torch.ones_like(draws.t), torch.zeros_like(draws.r))
    (u, v), (du_dt, _) = jvp(u_and_v, (z_t, draws.t, draws.r), tangents)
    V = u + h * du_dt.detach()
    loss = 0
    for prediction in (V, v):
        error = (prediction - v_g.detach()).pow(2).sum((1, 2, 3))
        loss = loss + error / (error.detach() + eps) ** p
    return loss


@pytest.mark.parametrize(("p", "eps"), [(0.0, 0.01), (1.0, 0.01), (0.5, 3.0)])
def test_loss_and_gradients_are_those_of_the_literal_step(p, eps):
    network = imf(activation_checkpointing=p == 0.5)
    x, y, draws = problem()
    loss = objective(p, eps)(network, x, y, draws).loss
    expected = literal_loss(plain_definition(network), p, eps, x, y, draws)
    assert_equal_to_rounding(loss, expected[FLOW + FLOW_MAP])

    parameters = list(network.parameters())
    actual = torch.autograd.grad(loss.mean(), parameters)
    for a, b in zip(actual, torch.autograd.grad(expected.mean(), parameters), strict=True):
        assert_equal_to_rounding(a, b)


@pytest.mark.parametrize("everyone", [True, False])
def test_batches_of_one_kind_too(everyone):
    network = imf()
    x, y, draws = problem()
    full = torch.full((8,), everyone)
    draws = draws._replace(r_equals_t=full, r=torch.where(full, draws.t, draws.r))
    if everyone:
        draws = draws._replace(t_min=torch.zeros_like(draws.t), t_max=torch.ones_like(draws.t))
    output = objective(0.0)(network, x, y, draws)
    assert_equal_to_rounding(output.loss, literal_loss(plain_definition(network), 0.0, 0.01, x, y, draws))
    assert (output.diagnostics["du_dt_norm"] == 0) == everyone
    assert len(output.by_t["du_dt_norm"].value) == 8 * (not everyone)


def test_guided_velocity_is_the_literal_one():
    network = imf()
    x, y, draws = problem()
    t = draws.t[:, None, None, None]
    z_t, v_t = (1 - t) * x + t * draws.e, draws.e - x
    expected_v_g, expected_v_c = literal_guidance(network, z_t, v_t, y, draws)
    plan = objective().plan(draws, x)
    v_g, v_c = guided_velocity(network, z_t, v_t, y, plan, expected_v_c[FLOW])
    assert_equal_to_rounding(v_g, expected_v_g)
    assert_equal_to_rounding(v_c, expected_v_c)
    assert plan.evaluations.guided.nonzero().flatten().tolist() == GUIDED
    # Otherwise the comparisons above could not see a wrong interval. 5 has the null label and the scale 5.
    changed = (v_g - v_t).abs().amax((1, 2, 3)) > 1e-3
    assert changed.nonzero().flatten().tolist() == GUIDED
    assert not v_g.requires_grad
    assert not v_c.requires_grad


# --- Cost -------------------------------------------------------------------------------------------------------------


def test_nothing_is_evaluated_that_would_be_thrown_away():
    x, y, draws = problem()
    network = Recorded(imf())
    output = objective()(network, x, y, draws)
    # r = t; v_cond of the others with v_uncond of the guided ones; r < t.
    assert [call[:3] for call in network.calls] == [(3, True, False), (5 + 5, False, False), (5, True, True)]
    assert [more for _, more in network.more] == [{}, {"heads": "v"}, {}]
    flow, guidance, flow_map = (call[3] for call in network.calls)
    assert flow == [5, 3, 5]
    assert guidance == [0, 2, 4, 0, 1] + [5] * 5  # labels before dropping, then null labels
    assert flow_map == [0, 2, 5, 0, 1]
    times = [call[4] for call in network.calls]
    assert times == [draws.t[index].tolist() for index in (FLOW, FLOW_MAP + GUIDED, FLOW_MAP)]
    cond, _ = network.more[1]
    # 6 is outside its interval; unconditional velocities get no guidance.
    assert cond.omega.tolist() == [2.0, 1.5, 4.0, 1.0, 2.5] + [1.0] * 5
    assert not cond.t_min.any()
    assert cond.t_max.tolist() == [1.0] * 10
    assert output.diagnostics["share_guided"] == 5 / 8


def test_a_scale_of_one_costs_no_unconditional_velocity_and_changes_nothing():
    x, y, draws = problem()
    some = torch.arange(8) % 2 == 0
    ones = draws._replace(omega=draws.omega.masked_fill(some, 1.0))
    almost = draws._replace(omega=draws.omega.masked_fill(some, 1 + 1e-15))  # 1 - 1 / omega is 1e-15
    network = Recorded(imf())
    output, expected = objective()(network, x, y, ones), objective()(imf(), x, y, almost)
    assert_equal_to_rounding(output.loss, expected.loss)
    guided = [index for index in GUIDED if not some[index]]
    assert network.calls[1][0] == 5 + len(guided) < 5 + len(GUIDED)
    assert output.diagnostics["share_guided"] == len(guided) / 8


def test_guidance_of_nobody_costs_nothing():
    x, y, draws = problem()
    everyone = torch.ones(8, dtype=torch.bool)
    flow = draws._replace(r_equals_t=everyone, dropped=everyone, r=draws.t)
    network = Recorded(imf())
    output = objective()(network, x, y, flow)
    assert [call[:3] for call in network.calls] == [(8, True, False)]
    assert output.diagnostics["share_guided"] == 0

    # With r < t the tangent is still needed, the unconditional velocity is not.
    flow_map = draws._replace(r_equals_t=~everyone, dropped=everyone)
    network = Recorded(imf())
    objective()(network, x, y, flow_map)
    assert [call[:3] for call in network.calls] == [(8, False, False), (8, True, True)]


# --- Draws, diagnostics -----------------------------------------------------------------------------------------------


def test_draws_are_reproducible_and_in_range():
    ours, shape = objective(label_drop=LeadingLabelDrop(0.3)), (2001, 1, 2, 2)
    first, again, other = (ours.draw(shape, generator(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.e, other.e)
    assert first.e.shape == shape
    assert all(draw.shape == (2001,) for draw in first[:-1])
    assert first.r_equals_t.tolist() == [True] * 1000 + [False] * 1001
    assert torch.equal(first.r[:1000], first.t[:1000])
    assert (first.r[1000:] < first.t[1000:]).all()
    assert first.r.min() > 0
    assert first.t.max() < 1
    assert 1 <= first.omega.min() < first.omega.max() <= 8
    assert not first.t_min[:1000].any()
    assert (first.t_max[:1000] == 1).all()
    assert 0 <= first.t_min.min() < 0.5 <= first.t_max.min()
    assert abs(first.dropped.float().mean().item() - 0.3) < 5 * (0.3 * 0.7 / 2001) ** 0.5


def test_everything_is_drawn_independently():
    draws = objective(share=0.0).draw((40_000, 1, 1, 1), generator(0))
    columns = (draws.t, draws.t - draws.r, draws.omega, draws.t_min, draws.t_max, draws.dropped.float())
    correlation = torch.corrcoef(torch.stack([*columns, draws.e.flatten()]))
    correlation[0, 1] = correlation[1, 0] = 0  # t and t - r belong together
    assert (correlation - torch.eye(7)).abs().max() < 5 / 40_000**0.5


def test_draws_take_the_type_of_the_data():
    x, _, draws = problem()
    moved = objective().plan(draws, x.float()).draws
    assert {draw.dtype for draw in moved} == {torch.bool, torch.float32}
    assert moved.dropped.tolist() == draws.dropped.tolist()


def test_diagnostics_are_means_and_not_tracked():
    x, y, draws = problem()
    output = objective(p=0.0)(imf(), x, y, draws)
    assert output.diagnostics.keys() == {"u_loss", "v_loss", "du_dt_norm", "share_guided"}
    assert not any(value.requires_grad for value in output.diagnostics.values())
    total = 48 * (output.diagnostics["u_loss"] + output.diagnostics["v_loss"])
    torch.testing.assert_close(total, output.loss.mean().detach())


def test_samples_by_time_are_those_of_the_means():
    x, y, draws = problem()
    output = objective(p=0.0)(imf(), x, y, draws)
    # No derivative is computed where r = t, and none is reported.
    places = {"u_loss": FLOW + FLOW_MAP, "v_loss": FLOW + FLOW_MAP, "du_dt_norm": FLOW_MAP}
    assert output.by_t.keys() == places.keys()
    for name, samples in output.by_t.items():
        assert torch.equal(samples.t, draws.t[places[name]])
        assert samples.value.shape == samples.t.shape
        assert not samples.value.requires_grad
        torch.testing.assert_close(samples.value.mean(), output.diagnostics[name])
    errors = 48 * (output.by_t["u_loss"].value + output.by_t["v_loss"].value)
    torch.testing.assert_close(errors, output.loss.detach())


def test_low_precision_data_gives_a_float32_loss():
    x, y, draws = problem()
    output = objective()(imf().float(), x.bfloat16(), y, draws)
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite().all()
