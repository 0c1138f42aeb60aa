"""Distributions of times: their quantiles are the mapped quantiles of the normal distribution."""

import math
from statistics import NormalDist

import pytest
import torch

from meanflow.objectives.times import ArctanNormal, LogitNormal, OfficialArctanNormal, OrderedPair, PartlyEqualPair
from meanflow.random_streams import generator

CLOSED_FORMS = {
    LogitNormal: lambda n: 1 / (1 + math.exp(-n)),
    ArctanNormal: lambda n: 2 / math.pi * math.atan(math.exp(n)),
    OfficialArctanNormal: lambda n: 2 / math.pi * math.atan(n),
}


@pytest.mark.parametrize("cls", CLOSED_FORMS)
def test_transform_is_the_closed_form(cls):
    normals = [-7.0, -1.2, 0.0, 0.4, 5.0]
    expected = torch.tensor([CLOSED_FORMS[cls](n) for n in normals], dtype=torch.float64)
    actual = cls().transform(torch.tensor(normals, dtype=torch.float64))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("P_std", [1.0, 0.5])
@pytest.mark.parametrize("P_mean", [0.0, -1.2])
@pytest.mark.parametrize("cls", CLOSED_FORMS)
def test_quantiles(cls, P_mean, P_std):
    num_samples = 40_000
    t = cls(P_mean, P_std).sample(num_samples, generator(0)).double()
    for level in (0.05, 0.5, 0.9):
        quantile = CLOSED_FORMS[cls](NormalDist(P_mean, P_std).inv_cdf(level))
        # The share of samples below the quantile, within five standard errors.
        share = (t < quantile).double().mean().item()
        assert abs(share - level) < 5 * math.sqrt(level * (1 - level) / num_samples)


@pytest.mark.parametrize("cls", [LogitNormal, ArctanNormal])
def test_times_are_float32_between_data_and_noise(cls):
    t = cls(P_std=2.0).sample(10_000, generator(0))
    assert t.dtype == torch.float32
    assert t.shape == (10_000,)
    assert 0 < t.min() < 0.05
    assert 0.95 < t.max() < 1


def test_official_cosine_times_are_negative_where_the_normal_is():
    normals = torch.tensor([-3.0, -1e-3, 0.0, 1.0])
    t = OfficialArctanNormal().transform(normals)
    assert (t < 0).tolist() == [True, True, False, False]
    assert t[-1] == 0.5
    assert OfficialArctanNormal().sample(1000, generator(0)).min() < -0.5


def test_log_signal_to_noise_ratio_of_the_cosine_times():
    normal = torch.linspace(-3, 3, 7, dtype=torch.float64)
    angle = math.pi / 2 * ArctanNormal().transform(normal)
    torch.testing.assert_close(2 * torch.log(torch.cos(angle) / torch.sin(angle)), -2 * normal)


def test_ordered_pair_is_the_larger_and_the_smaller_of_two_independent_draws():
    first, second = LogitNormal(0.4), LogitNormal(-1.2)
    t, r = OrderedPair(first, second).sample(5000, generator(1))
    assert (r <= t).all()
    same = generator(1)
    a, b = first.sample(5000, same), second.sample(5000, same)
    assert torch.equal(t, torch.maximum(a, b))
    assert torch.equal(r, torch.minimum(a, b))
    assert (a < b).any()  # so the order was needed
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / math.sqrt(5000)


@pytest.mark.parametrize(("prob", "num_equal"), [(0.0, 0), (0.3, 3), (0.5, 5), (1.0, 11)])
def test_first_samples_of_a_partly_equal_pair_have_r_equal_to_t(prob, num_equal):
    first, second = LogitNormal(-0.4), LogitNormal(-0.4)
    pair = PartlyEqualPair(first, second, prob)
    t, r = pair.sample(11, generator(1))
    assert (t == r).tolist() == [i < num_equal for i in range(11)] == pair.r_equals_t(11).tolist()
    whole_t, whole_r = OrderedPair(first, second).sample(11, generator(1))  # the share changes no other draw
    assert torch.equal(t, whole_t)
    assert torch.equal(r[num_equal:], whole_r[num_equal:])


@pytest.mark.parametrize("prob", [-0.1, 1.1])
def test_a_share_of_equal_times_is_a_share(prob):
    with pytest.raises(ValueError, match=f"prob_r_equals_t must be from 0 to 1, got {prob}"):
        PartlyEqualPair(LogitNormal(), LogitNormal(), prob)


def test_a_standard_deviation_is_not_negative():
    with pytest.raises(ValueError, match=r"P_std must be at least 0, got -1\.0"):
        LogitNormal(P_std=-1.0)


def test_without_deviation_all_times_are_equal():
    times = LogitNormal(P_mean=0.4, P_std=0.0).sample(8, torch.Generator())
    torch.testing.assert_close(times, torch.full((8,), 0.4).sigmoid())
