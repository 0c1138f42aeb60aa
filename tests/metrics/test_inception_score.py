import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from meanflow.metrics import InceptionScore, inception_score
from meanflow.metrics.features.extractor import ImageFeatures


def certain(labels: list[int], num_classes: int = 4) -> torch.Tensor:
    """Logits of a classifier that has no doubt."""
    return 100.0 * torch.eye(num_classes)[labels]


def test_limits():
    # One part: certain about as many classes as there are, and certain about one class or about nothing.
    assert inception_score(certain([0, 1, 2, 3] * 5), 1).mean.item() == pytest.approx(4, rel=1e-8)
    assert inception_score(certain([0, 1] * 5), 1).mean.item() == pytest.approx(2, rel=1e-8)
    assert inception_score(certain([2] * 8), 1).mean.item() == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.zeros(8, 4), 1).mean.item() == pytest.approx(1, rel=1e-12)


def test_two_images_by_hand():
    p = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    score = inception_score(p.log(), 1)
    assert score.mean.item() == pytest.approx(math.exp(kl), rel=1e-6)
    assert score.std.item() == 0
    assert score.mean.dtype == score.std.dtype == torch.float64


def test_parts_are_shuffled_and_the_rest_is_dropped():
    logits = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    order = np.random.RandomState(2020).permutation(11)
    scores = torch.stack([inception_score(logits[order[i : i + 5]], 1).mean for i in (0, 5)])
    score = inception_score(logits, 2)
    torch.testing.assert_close(score.mean, scores.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(score.std, (scores - scores.mean()).abs().mean(), rtol=1e-9, atol=0)
    assert inception_score(logits, 2, seed=1).mean != score.mean


@pytest.mark.parametrize("num_images", [500, 2000])
def test_close_to_torch_fidelity(num_images):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_images, 1008, generator=generator)
    theirs = isc_features_to_metric(logits)
    score = inception_score(logits)
    assert score.mean.item() == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert score.std.item() == pytest.approx(theirs["inception_score_std"], rel=1e-4)


def test_metric_depends_on_neither_batches_nor_order():
    logits = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
    expected = inception_score(logits, 4)
    metric = InceptionScore(num_splits=4)
    for order in (torch.arange(23), torch.randperm(23, generator=torch.Generator().manual_seed(1))):
        for indices in order.split(9):
            metric.update(ImageFeatures(torch.zeros(len(indices), 1), logits=logits[indices]), indices)
        assert metric.compute() == {"is_mean": expected.mean.item(), "is_std": expected.std.item()}
        metric.reset()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"num_splits must be from 1 to the number of images \(3\), got 10"):
        inception_score(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"shape \(N, K\), got \(2, 3, 4\)"):
        inception_score(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="logits must be finite"):
        inception_score(torch.tensor([[0.0], [math.nan]]), 1)
    with pytest.raises(ValueError, match="num_splits must be at least 1, got 0"):
        InceptionScore(num_splits=0)
    metric = InceptionScore()
    with pytest.raises(ValueError, match="needs class logits, but 'inception' has none"):
        metric.update(ImageFeatures(torch.zeros(2, 3)), torch.arange(2))
    with pytest.raises(ValueError, match=r"must be finite, those of image\(s\) \[8\]"):
        metric.update(ImageFeatures(torch.zeros(2, 3), logits=torch.tensor([[0.0], [math.nan]])), torch.tensor([7, 8]))
    with pytest.raises(ValueError, match="there are no images"):
        metric.compute()
