import itertools
import warnings

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from meanflow.metrics import KernelDistance, kernel_distances
from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.reference import Reference


def features(seed: int, num_images: int = 60, dim: int = 16) -> torch.Tensor:
    return torch.rand(num_images, dim, generator=torch.Generator().manual_seed(seed))


def fidelity(generated: torch.Tensor, reference: torch.Tensor, **arguments: int) -> tuple[float, float]:
    result = kid_features_to_metric(generated, reference, verbose=False, **arguments)
    return result["kernel_inception_distance_mean"], result["kernel_inception_distance_std"]


def test_sum_over_pairs():
    x, y = features(0, num_images=4).double(), features(1, num_images=4).double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (a @ b / 16 + 1).item() ** 3

    within = [np.mean([kernel(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)]
    across = np.mean([kernel(a, b) for a, b in itertools.product(x, y)])
    estimates = kernel_distances(x, y, num_subsets=2, subset_size=4)
    assert estimates.dtype == torch.float64
    assert estimates.tolist() == pytest.approx([sum(within) - 2 * across] * 2, rel=1e-12)


def test_unbiased():
    # Independent sets of one distribution: 0 on average, with either sign.
    estimates = [kernel_distances(features(2 * s), features(2 * s + 1), 1, 60).item() for s in range(200)]
    assert min(estimates) < 0 < max(estimates)
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(200)


def test_subsets_of_torch_fidelity():
    generated, reference = features(0) + 0.2, features(1, num_images=80)
    arguments = {"kid_subsets": 7, "kid_subset_size": 50}
    estimates = kernel_distances(generated, reference, num_subsets=7, subset_size=50)
    values = estimates.mean().item(), estimates.std(correction=0).item()
    assert values == pytest.approx(fidelity(generated.double(), reference.double(), **arguments), rel=1e-10)
    assert values == pytest.approx(fidelity(generated, reference, **arguments), rel=1e-4)


def test_float32_of_torch_fidelity_loses_small_distances():
    generated, reference = features(0, 200, 64) + 3, features(1, 200, 64) + 3
    arguments = {"kid_subsets": 2, "kid_subset_size": 200}
    exact, _ = fidelity(generated.double(), reference.double(), **arguments)
    in_float32, _ = fidelity(generated, reference, **arguments)
    assert abs(in_float32 - exact) > 1e-3 * abs(exact)
    assert kernel_distances(generated, reference, 2, 200).mean().item() == pytest.approx(exact, rel=1e-9)


def test_metric_depends_on_neither_batches_nor_order():
    metric = KernelDistance("pixels", "kid_pixels", num_subsets=3, subset_size=20)
    metric.set_reference(Reference(features={"pixels": features(1)}))
    estimates = kernel_distances(features(0), features(1), 3, 20)
    for order in (torch.arange(60), torch.randperm(60, generator=torch.Generator().manual_seed(0))):
        for indices in order.split(25):
            metric.update(ImageFeatures(features(0)[indices]), indices)
        values = metric.compute()
        assert values == {"kid_pixels": estimates.mean().item(), "kid_pixels_std": estimates.std(correction=0).item()}
        metric.reset()


def test_few_images_warn_once_and_stay_unbiased():
    metric = KernelDistance("pixels")
    metric.set_reference(Reference(features={"pixels": features(1, num_images=70)}, origin={"file": "ref.npz"}))
    metric.update(ImageFeatures(features(0)), torch.arange(60))
    message = r"kid from subsets of 60 images in place of 1000 \(60 generated, 70 in ref\.npz\): the mean is unbiased"
    with pytest.warns(UserWarning, match=message):
        values = metric.compute()
    assert values["kid"] == kernel_distances(features(0), features(1, num_images=70), 100, 60).mean().item()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute()


def test_bad_numbers_are_named():
    x = features(0)
    for size in (1, 61):
        with pytest.raises(ValueError, match=rf"subset_size must be from 2 to the number of images \(60\), got {size}"):
            kernel_distances(x, x, subset_size=size)
    with pytest.raises(ValueError, match="num_subsets must be at least 1, got 0"):
        kernel_distances(x, x, num_subsets=0, subset_size=2)
