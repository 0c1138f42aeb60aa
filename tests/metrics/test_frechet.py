import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from meanflow.metrics import FrechetDistance, Gaussian, frechet_distance
from meanflow.metrics.features import PixelFeatures
from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.reference import Reference


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


@pytest.mark.parametrize("dim", [1, 5, 64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_matrix_root_of_scipy(dim, seed):
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(2, 4 * dim + 8, dim, generator=generator, dtype=torch.float64)
    a, b = (fitted(x) for x in (samples[0], 0.3 + 1.5 * samples[1]))
    root = np.atleast_2d(scipy.linalg.sqrtm((a.sigma @ b.sigma).numpy()))
    expected = (a.mu - b.mu).square().sum().item() + (a.sigma + b.sigma).trace().item() - 2 * root.real.trace()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_fewer_samples_than_dimensions():
    x = torch.rand(40, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = fitted(x[::2]), fitted(x[1::2])
    assert frechet_distance(a, a) < 1e-6
    # From factors of the covariances, without an eigenvalue 0 whose rounding error would have a root.
    factors = [(part - part.mean(dim=0)) / np.sqrt(len(part) - 1) for part in (x[::2], x[1::2])]
    roots = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    exact = ((a.mu - b.mu).square().sum() + a.sigma.trace() + b.sigma.trace() - 2 * roots).item()
    assert exact > 1
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-6)


class Identity(torch.nn.Module):
    num_features = 64

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_other_libraries_give_negative_distances():
    x = torch.rand(20, 64, generator=torch.Generator().manual_seed(0))
    theirs = FrechetInceptionDistance(feature=Identity())
    for real in (True, False):
        theirs.update(x, real=real)
    moments = fid_features_to_statistics(x)
    assert theirs.compute() < -1e-8
    assert theirs.compute().dtype == torch.float32
    assert fid_statistics_to_metric(moments, moments, verbose=False)["frechet_inception_distance"] < -1e-8
    assert 0 <= frechet_distance(fitted(x), fitted(x)) < 1e-8


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


def fitted(x: torch.Tensor) -> Gaussian:
    x = x.double()
    return Gaussian(x.mean(dim=0), torch.cov(x.T).reshape(x.shape[1], x.shape[1]), len(x))


def features(seed: int, num_images: int = 20) -> ImageFeatures:
    generator = torch.Generator().manual_seed(seed)
    pooled, spatial = (torch.randn(num_images, dim, generator=generator) for dim in (4, 3))
    return ImageFeatures(pooled, spatial)


def reference(seed: int = 0) -> Reference:
    pooled, spatial, _ = features(seed)
    return Reference({"pixels": fitted(pooled)}, {"pixels": fitted(spatial)}, origin={"file": "ref.npz"})


@pytest.mark.parametrize("layer", ["pooled", "spatial"])
def test_image_metric_streams_and_keeps_the_reference(layer):
    metric = FrechetDistance("fd", "pixels", layer)
    metric.set_reference(reference())
    real = fitted(getattr(features(0), layer))
    for seed in (1, 2):
        for indices in torch.arange(20).split([13, 0, 7]):
            metric.update(ImageFeatures(*(x[indices] for x in features(seed)[:2])), indices)
        generated = fitted(getattr(features(seed), layer))
        assert metric.compute() == {"fd": pytest.approx(frechet_distance(generated, real), rel=1e-9)}
        metric.reset()
    metric.update(features(0), torch.arange(20))
    assert metric.compute()["fd"] < 1e-6
    assert list(metric.higher_is_better) == ["fd"]


def test_image_metric_warns_once_of_few_images():
    metric = FrechetDistance("fd", "pixels")
    metric.set_reference(reference())
    metric.update(features(1, num_images=4), torch.arange(4))
    with pytest.warns(UserWarning, match=r"fd from 4 generated images in 4 feature dimensions: .* biased upwards"):
        metric.compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute()


def test_image_metric_warns_of_a_reference_of_few_images():
    metric = FrechetDistance("fd", "pixels")
    metric.set_reference(Reference({"pixels": fitted(features(0, 3).pooled)}, origin={"file": "ref.npz"}))
    metric.update(features(1), torch.arange(20))
    with pytest.warns(UserWarning, match=r"fd from 3 images in ref\.npz in 4 feature dimensions"):
        metric.compute()


def test_image_metric_names_what_is_wrong():
    metric = FrechetDistance("fd", "pixels", "spatial")
    with pytest.raises(ValueError, match="fd needs a reference"):
        metric.compute()
    with pytest.raises(ValueError, match="fd needs spatial features, but 'pixels' has none"):
        metric.update(ImageFeatures(torch.zeros(2, 4)), torch.arange(2))
    bad = features(1)._replace(spatial=torch.full((20, 3), float("nan")))
    with pytest.raises(ValueError, match=r"must be finite, those of image\(s\) \[40, 41"):
        metric.update(bad, torch.arange(40, 60))
    with pytest.raises(ValueError, match="'pixels', it has none"):
        metric.set_reference(Reference(origin={"file": "ref.npz"}))
    metric.update(features(1), torch.arange(20))
    metric.set_reference(Reference(spatial={"pixels": Gaussian(torch.zeros(9), torch.eye(9))}))
    for call in (lambda: metric.update(features(1), torch.arange(20, 40)), metric.compute):
        with pytest.raises(ValueError, match=r"the reference has 'pixels' features of 9 dimensions, .* have 3"):
            call()
    metric.reset()
    with pytest.raises(ValueError, match="at least 2 samples, got 0"):
        metric.compute()


def images(seed: int, num_images: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_images, 1, 2, 2), generator=generator, dtype=torch.uint8)


def moments(x: torch.Tensor) -> Gaussian:
    features = PixelFeatures()(x).pooled.double()
    return Gaussian(features.mean(dim=0), torch.cov(features.T), len(x))
