import math
import warnings

import numpy as np
import pytest
import torch

from meanflow.metrics import InceptionScore, inception_score


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


def test_metric_streams_and_resets():
    logits = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
    metric = InceptionScore(num_splits=4)
    for _ in range(2):
        for batch in logits.split(9):
            metric.update(batch)
        assert metric.compute() == inception_score(logits, 4)
        metric.reset()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"num_splits must be from 1 to the number of images \(3\), got 10"):
        inception_score(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="num_splits must be at least 1, got 0"):
        InceptionScore(0)
    metric = InceptionScore()
    with pytest.raises(ValueError, match=r"shape \(B, K\), got \(2, 3, 4\)"):
        metric.update(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"must be finite, those of sample\(s\) \[1\]"):
        metric.update(torch.tensor([[0.0], [math.nan]]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric .* was called before")
        with pytest.raises(ValueError, match="needs as many images, got 0"):
            InceptionScore().compute()
