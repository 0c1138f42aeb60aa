import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from meanflow.metrics import PrecisionRecall, precision_and_recall
from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.reference import Reference


def draw(seed: int, num_images: int, dim: int = 8) -> torch.Tensor:
    return torch.randn(num_images, dim, generator=torch.Generator().manual_seed(seed))


def brute_force(generated: torch.Tensor, reference: torch.Tensor, num_neighbors: int = 3) -> tuple[float, float]:
    def distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.double()[:, None] - y.double()).square().sum(dim=2)

    def radii(x: torch.Tensor) -> torch.Tensor:
        return distances(x, x).sort(dim=1).values[:, num_neighbors]

    def share_among(x: torch.Tensor, others: torch.Tensor) -> float:
        return (distances(x, others) <= radii(others)).any(dim=1).double().mean().item()

    return share_among(generated, reference), share_among(reference, generated)


def lattice(seed: int, num_images: int) -> torch.Tensor:
    """Points of which many coincide or are equally far apart, as float32 with rounding errors in their products."""
    return draw(seed, num_images, dim=4).round() * 0.1 + 0.7


SETS = {
    "overlapping": (draw(0, 50), 1.2 * draw(1, 70) + 0.5),
    "equal": (draw(0, 50), draw(0, 50)),
    "far apart": (draw(0, 50), draw(1, 50) + 100),
    "narrow in wide": (0.1 * draw(0, 50, 2), 3 * draw(1, 60, 2)),
    "ties": (lattice(0, 40), lattice(1, 55)),
    "ties far from 0": (lattice(0, 40) + 64, lattice(1, 55) + 64),
    "copies": (draw(0, 20).repeat(3, 1), torch.cat([draw(0, 9).repeat_interleave(5, 0), draw(2, 30)])),
    "one point": (torch.full((9, 3), 0.3), torch.full((7, 3), 0.3)),
}


@pytest.mark.parametrize("max_entries", [1, 300, 2**22])
@pytest.mark.parametrize("name", SETS)
def test_equals_brute_force(name, max_entries):
    shares = precision_and_recall(*SETS[name], max_entries=max_entries)
    assert tuple(shares) == pytest.approx(brute_force(*SETS[name]), abs=1e-12)


def test_limits():
    assert precision_and_recall(*SETS["equal"]) == (1, 1)
    assert precision_and_recall(*SETS["far apart"]) == (0, 0)
    narrow = precision_and_recall(*SETS["narrow in wide"])
    assert narrow.precision == 1  # all that is generated could be real
    assert narrow.recall < 0.2  # and most that is real is never generated


@pytest.mark.parametrize("num_neighbors", [1, 3, 5])
def test_equals_torch_fidelity_where_float32_suffices(num_neighbors):
    generated, reference = SETS["overlapping"]
    theirs = prc_features_to_metric(generated, reference, prc_neighborhood=num_neighbors, verbose=False)
    shares = precision_and_recall(generated, reference, num_neighbors)
    assert shares == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert 0.2 < shares.precision < 1


def test_float32_of_torch_fidelity_fails_far_from_0():
    generated, reference = draw(0, 200, 64) + 1000, draw(1, 200, 64) + 1000
    exact = brute_force(generated, reference)
    assert precision_and_recall(generated, reference) == pytest.approx(exact, abs=1e-12)
    for save_cpu_ram in (False, True):
        theirs = prc_features_to_metric(generated, reference, save_cpu_ram=save_cpu_ram, verbose=False)
        assert abs(theirs["precision"] - exact[0]) > 0.02


def test_metric_takes_images_in_any_order():
    generated, reference = SETS["overlapping"]
    metric = PrecisionRecall("pixels", "_pixels")
    metric.set_reference(Reference(features={"pixels": reference}))
    for indices in torch.randperm(50, generator=torch.Generator().manual_seed(0)).split(23):
        metric.update(ImageFeatures(generated[indices]), indices)
    precision, recall = precision_and_recall(generated, reference)
    assert metric.compute() == {"precision_pixels": precision, "recall_pixels": recall}


def test_too_few_images_are_named():
    with pytest.raises(ValueError, match=r"below the number of generated images \(3\), got 3"):
        precision_and_recall(draw(0, 3), draw(1, 9))
    with pytest.raises(ValueError, match=r"below the number of real images \(2\), got 3"):
        precision_and_recall(draw(0, 9), draw(1, 2))
