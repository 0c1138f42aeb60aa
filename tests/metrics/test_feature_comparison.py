import pytest
import torch
from torch import Tensor

from meanflow.metrics.feature_comparison import FeatureComparison
from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.reference import Reference


class Means(FeatureComparison):
    higher_is_better = {"generated": None, "real": None}  # noqa: RUF012

    def compare(self, generated: Tensor, reference: Tensor) -> dict[str, float]:
        return {"generated": generated.mean().item(), "real": reference.mean().item()}


def test_reset_keeps_the_reference():
    metric = Means("pixels")
    metric.set_reference(Reference(features={"pixels": torch.ones(3, 2)}))
    metric.update(ImageFeatures(torch.full((2, 2), 9.0)), torch.arange(2))
    metric.reset()
    metric.update(ImageFeatures(torch.zeros(2, 2)), torch.arange(2))
    assert metric.compute() == {"generated": 0, "real": 1}
    metric.set_reference(Reference(features={"pixels": torch.full((3, 2), 2.0)}))
    assert metric.compute() == {"generated": 0, "real": 2}


def test_what_is_wrong_is_named():
    metric = Means("pixels")
    with pytest.raises(ValueError, match="generated and real need a reference"):
        metric.compute()
    moments_only = Reference(origin={"file": "ref.npz"})
    with pytest.raises(ValueError, match=r"ref\.npz lacks kept features of 'pixels', it has none"):
        metric.set_reference(moments_only)
    metric.update(ImageFeatures(torch.zeros(2, 4)), torch.arange(2))
    metric.set_reference(Reference(features={"pixels": torch.ones(3, 2)}, origin={"file": "ref.npz"}))
    for call in (lambda: metric.update(ImageFeatures(torch.zeros(1, 4)), torch.tensor([2])), metric.compute):
        with pytest.raises(ValueError, match=r"ref\.npz has 'pixels' features of 2 dimensions, .* have 4"):
            call()
