import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics
from torchmetrics.image.fid import FrechetInceptionDistance

from meanflow.metrics import FeatureStatistics


def features(num_samples: int = 30, dim: int = 5, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return mean + std * torch.randn(num_samples, dim, generator=generator, dtype=torch.float64)


def accumulate(*batches: torch.Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for batch in batches:
        statistics.update(batch)
    return statistics


@pytest.mark.parametrize("sizes", [[30], [10, 15, 5], [1] * 30, [0, 29, 0, 1]])
def test_moments_do_not_depend_on_the_batches(sizes):
    x = features()
    mu, sigma, num_samples = accumulate(*x.split(sizes)).compute()
    assert num_samples == 30
    torch.testing.assert_close(mu, x.mean(dim=0), rtol=0, atol=1e-14)
    torch.testing.assert_close(sigma, torch.cov(x.T), rtol=0, atol=1e-13)


def test_small_deviations_about_a_large_mean_keep_their_digits():
    x = features(num_samples=1000, mean=1e6, std=1e-3)
    sigma = accumulate(*x.split(100)).compute().sigma
    # A mean of 1e6 leaves deviations of 1e-3 about seven digits in float64; sums of products would leave none.
    torch.testing.assert_close(sigma, torch.cov(x.T), rtol=0, atol=1e-6 * 1e-6)


def test_other_libraries_lose_digits():
    x = features(num_samples=1000, mean=1000.0, std=1e-2).float()
    exact = torch.cov(x.double().T)
    mu, sigma, _ = accumulate(*x.split(100)).compute()
    torch.testing.assert_close(sigma, exact, rtol=1e-9, atol=1e-9 * 1e-4)
    torch.testing.assert_close(mu, x.double().mean(dim=0), rtol=1e-14, atol=0)

    theirs = FrechetInceptionDistance(feature=Identity())
    for batch in x.split(100):
        theirs.update(batch, real=True)
    count, total = theirs.real_features_num_samples, theirs.real_features_sum
    summed = (theirs.real_features_cov_sum - total[:, None] * total / count) / (count - 1)
    assert summed.dtype == torch.float64
    assert ((summed - exact).abs().max() / exact.abs().max()) > 1e-7

    # Its error is a share of the deviations of 0.01, which a Fréchet distance squares.
    mean = torch.from_numpy(fid_features_to_statistics(x)["mu"])
    assert mean.dtype == torch.float32
    assert (mean - x.double().mean(dim=0)).abs().max() > 1e-6


class Identity(torch.nn.Module):
    num_features = 5

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_float32_features_are_accumulated_in_float64():
    x = features(num_samples=64).float()
    mu, sigma, _ = accumulate(*x.split(1)).compute()
    assert mu.dtype == sigma.dtype == torch.float64
    torch.testing.assert_close(mu, x.double().mean(dim=0), rtol=0, atol=1e-14)


def test_reset_forgets():
    statistics = accumulate(features() + 10)
    statistics.reset()
    statistics.update(features(dim=3))
    assert statistics.compute().mu.shape == (3,)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.tensor([[0.0] * 5, [float("nan")] * 5]), r"features must be finite, those of sample\(s\) \[1\]"),
        (torch.tensor([[float("inf")] * 5]), "features must be finite"),
        (torch.zeros(2, 4), "features must have 5 dimensions as before, got 4"),
        (torch.zeros(5), r"features must have shape \(B, D\), got \(5,\)"),
    ],
)
def test_bad_features(batch, message):
    statistics = accumulate(features())
    with pytest.raises(ValueError, match=message):
        statistics.update(batch)
    assert statistics.num_samples == 30


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        accumulate(features(num_samples=1)).compute()


def test_merging_moments_is_accumulating_the_samples():
    x = features()
    whole, first, second = accumulate(x), accumulate(x[:12]), accumulate(x[12:])
    exact = FeatureStatistics()
    exact.merge(first.moments)
    assert torch.equal(exact.compute().sigma, first.compute().sigma)
    first.merge(second.moments)
    assert first.compute().num_samples == 30
    torch.testing.assert_close(first.compute().sigma, whole.compute().sigma, rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="moments must have 5 dimensions as before, got 4"):
        first.merge(accumulate(x[:, :4]).moments)
