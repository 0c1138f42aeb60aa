import math

import pytest
import torch

from meanflow.objectives.guidance_scales import PowerLawScale, UniformInterval
from meanflow.random_streams import generator

NUM_SAMPLES = 40_000


def test_ends_and_middle():
    uniform = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for beta, median in ((0.0, 4.5), (1.0, math.sqrt(8)), (2.0, 1 / (1 - 0.5 * 7 / 8)), (0.5, ((1 + 8**0.5) / 2) ** 2)):
        expected = torch.tensor([1.0, median, 8.0], dtype=torch.float64)
        torch.testing.assert_close(PowerLawScale(beta).transform(uniform), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_density_is_a_power(beta):
    """The share below a scale is the integral of omega^-beta."""
    omega = PowerLawScale(beta, s_max=3.0).sample(NUM_SAMPLES, generator(0))
    assert omega.dtype == torch.float32
    assert 1 <= omega.min() <= omega.max() <= 4

    def integral(upper: float) -> float:
        return math.log(upper) if beta == 1 else (upper ** (1 - beta) - 1) / (1 - beta)

    for scale in (1.2, 2.0, 3.0):
        expected = integral(scale) / integral(4.0)
        share = (omega.double() < scale).double().mean().item()
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / NUM_SAMPLES)


def test_beta_near_1_is_continuous():
    uniform = torch.linspace(0, 1, 9, dtype=torch.float64)
    for beta in (1 - 1e-9, 1 + 1e-9):
        torch.testing.assert_close(
            PowerLawScale(beta).transform(uniform), PowerLawScale(1.0).transform(uniform), rtol=1e-7, atol=0
        )


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_scales_below_1(beta):
    """The formula holds for a last scale below 1."""
    uniform = torch.linspace(0, 1, 9, dtype=torch.float64)
    omega = PowerLawScale(beta, s_max=-0.5).transform(uniform)
    assert omega[0] == 1
    assert omega[-1].item() == pytest.approx(0.5, rel=1e-14)
    assert (omega.diff() < 0).all()


def test_one_scale_only():
    assert (PowerLawScale(s_max=0.0).sample(8, generator(0)) == 1).all()


@pytest.mark.parametrize("middle", [0.5, 0.3])
def test_intervals(middle):
    full = torch.arange(NUM_SAMPLES) % 4 == 0
    t_min, t_max = UniformInterval(middle).sample(full, generator(1))
    assert t_min.dtype == t_max.dtype == torch.float32
    assert (t_min[full] == 0).all()
    assert (t_max[full] == 1).all()
    t_min, t_max = t_min[~full], t_max[~full]
    assert 0 <= t_min.min() < t_min.max() <= middle <= t_max.min() < t_max.max() <= 1
    error = 5 / math.sqrt(12 * len(t_min))
    assert t_min.mean().item() == pytest.approx(middle / 2, abs=middle * error)
    assert t_max.mean().item() == pytest.approx((1 + middle) / 2, abs=(1 - middle) * error)
    assert abs(torch.corrcoef(torch.stack([t_min, t_max]))[0, 1]) < 5 / math.sqrt(len(t_min))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PowerLawScale(s_max=-1.0), "s_max must be above -1 and finite, got -1.0"),
        (lambda: PowerLawScale(beta=math.inf), "beta must be finite, got inf"),
        (lambda: UniformInterval(1.1), "middle must be from 0 to 1, got 1.1"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
