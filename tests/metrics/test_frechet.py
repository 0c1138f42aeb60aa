import warnings

import pytest
import torch

from meanflow.metrics import FrechetDistance, Gaussian, frechet_distance
from meanflow.metrics.features import PixelFeatures


def covariance(rank: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    factor = torch.randn(dim, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T


def test_diagonal_gaussians():
    a = Gaussian(torch.tensor([0.0, 1.0]), torch.diag(torch.tensor([4.0, 1.0])))
    b = Gaussian(torch.tensor([3.0, 1.0]), torch.diag(torch.tensor([1.0, 0.25])))
    # |mu_a - mu_b|^2 plus the squared differences of the standard deviations.
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 0.25, abs=1e-12)


def test_commuting_gaussians():
    sigma = covariance(rank=6)
    mu = torch.zeros(6)
    # sigma and 9 sigma: tr(sigma) (1 + 9 - 2 * 3).
    distance = frechet_distance(Gaussian(mu, sigma), Gaussian(mu, 9 * sigma))
    assert distance == pytest.approx(4 * sigma.trace().item(), rel=1e-12)


@pytest.mark.parametrize("rank", [6, 3, 1])
def test_same_is_zero_even_where_singular(rank):
    gaussian = Gaussian(torch.ones(6), covariance(rank))
    assert frechet_distance(gaussian, gaussian) == pytest.approx(0, abs=1e-6)


def test_disjoint_singular_covariances():
    a = Gaussian(torch.zeros(4), torch.diag(torch.tensor([2.0, 0.0, 0.0, 0.0])))
    b = Gaussian(torch.zeros(4), torch.diag(torch.tensor([0.0, 3.0, 0.0, 0.0])))
    assert frechet_distance(a, b) == pytest.approx(5.0, abs=1e-12)  # no overlap: tr(sigma_a) + tr(sigma_b)


def test_symmetric_in_its_arguments_and_equal_to_the_root_of_the_product():
    a, b = Gaussian(torch.zeros(6), covariance(6)), Gaussian(torch.ones(6), covariance(6, seed=1))
    roots = torch.linalg.eigvals(a.sigma @ b.sigma).real.sqrt().sum()
    expected = (6 + a.sigma.trace() + b.sigma.trace() - 2 * roots).item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)


def test_one_dimension():
    a, b = Gaussian(torch.tensor(1.0), torch.tensor(4.0)), Gaussian(torch.tensor([0.0]), torch.tensor([[1.0]]))
    assert frechet_distance(a, b) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (Gaussian(torch.zeros(3), torch.eye(3)), "same number of dimensions, got 2 and 3"),
        (Gaussian(torch.zeros(2), torch.eye(3)), r"sigma of the second Gaussian must have shape \(2, 2\)"),
        (Gaussian(torch.tensor([0.0, float("nan")]), torch.eye(2)), "second Gaussian must be finite"),
    ],
)
def test_bad_gaussians(b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(Gaussian(torch.zeros(2), torch.eye(2)), b)


def images(seed: int, num_images: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_images, 1, 2, 2), generator=generator, dtype=torch.uint8)


def moments(x: torch.Tensor) -> Gaussian:
    features = PixelFeatures()(x).pooled.double()
    return Gaussian(features.mean(dim=0), torch.cov(features.T), len(x))


def test_metric_streams_images_and_keeps_the_reference():
    metric = FrechetDistance(PixelFeatures(), moments(images(0)))
    for seed in (1, 2):
        metric.update(images(seed)[:7])
        metric.update(images(seed)[7:])
        distance = metric.compute()
        assert distance.dtype == torch.float64
        assert distance.item() == pytest.approx(frechet_distance(moments(images(seed)), moments(images(0))), rel=1e-9)
        metric.reset()


def test_metric_accumulates_a_reference():
    metric = FrechetDistance(PixelFeatures())
    metric.update(images(0), real=True)
    metric.update(images(1))
    expected = frechet_distance(moments(images(1)), moments(images(0)))
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)
    metric.reset()
    metric.update(images(0))
    assert metric.compute().item() == pytest.approx(0, abs=1e-6)

    metric.set_reference(moments(images(1)))
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="reference that was given"):
        metric.update(images(2), real=True)


def test_few_images_warn_once():
    metric = FrechetDistance(PixelFeatures(), moments(images(0)))
    metric.update(images(1, num_images=4))
    with pytest.warns(UserWarning, match="from 4 generated images in 4 feature dimensions: .* biased upwards"):
        metric.compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute()


def test_missing_reference():
    metric = FrechetDistance(PixelFeatures())
    metric.update(images(0))
    with pytest.raises(ValueError, match=r"FrechetDistance has too few real images: .* got 0"):
        metric.compute()
