import pytest
import torch

from meanflow.metrics import Gaussian, require_same_weights
from meanflow.metrics.features import PixelFeatures
from meanflow.metrics.reference import Reference
from meanflow.metrics.requirements import require_part


class Weighted(PixelFeatures):
    name = "weighted"

    def weights_sha256(self) -> str:
        return "ab12"


def test_other_weights_are_refused():
    reference = Reference(weights_sha256={"weighted": "cd34"}, origin={"file": "ref.npz"})
    with pytest.raises(ValueError, match=r"ref\.npz was made with other weights of 'weighted', sha256 cd34, .* ab12"):
        require_same_weights(reference, Weighted())


def test_equal_and_unknown_weights_are_not_refused():
    require_same_weights(Reference(weights_sha256={"weighted": "ab12"}), Weighted())
    require_same_weights(Reference(), Weighted())
    require_same_weights(Reference(weights_sha256={"pixels": "cd34"}), PixelFeatures())


def test_missing_parts_are_named():
    gaussian = Gaussian(torch.zeros(1), torch.eye(1))
    reference = Reference(pooled={"inception": gaussian}, origin={"file": "ref.npz"})
    assert require_part(reference, "pooled", "inception") is gaussian
    message = r"ref\.npz lacks moments of pooled features of 'dinov2', it has those of \['inception'\] only"
    with pytest.raises(ValueError, match=message):
        require_part(reference, "pooled", "dinov2")
    with pytest.raises(
        ValueError, match=r"lacks moments of spatial features of 'inception', it has none; .*task=stats"
    ):
        require_part(reference, "spatial", "inception")
