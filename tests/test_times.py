"""Distributions of times: their quantiles are those of the normal, mapped."""

import math
from statistics import NormalDist

import pytest
import torch

from meanflow.draws import generator
from meanflow.times import ArctanNormal, LogitNormal, OfficialArctanNormal, OrderedPair

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


@pytest.mark.parametrize("P_std", [0.0, -1.0])
def test_a_standard_deviation_is_above_zero(P_std):
    with pytest.raises(ValueError, match=f"P_std must be above 0, got {P_std}"):
        LogitNormal(P_std=P_std)
