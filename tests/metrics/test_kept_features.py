import pytest
import torch

from meanflow.metrics.kept_features import KeptFeatures


def test_ordered_by_image_and_independent_of_what_is_given():
    kept = KeptFeatures()
    tokens = torch.arange(12, dtype=torch.float64).reshape(3, 2, 2)
    kept.update(tokens[:, 0], torch.tensor([5, 1, 9]))
    kept.update(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    kept.update(torch.tensor([[0.0, 0.5]]), torch.tensor([3]))
    tokens.zero_()
    gathered = kept.gather()
    assert gathered.tolist() == [[4, 5], [0, 0.5], [0, 1], [8, 9]]
    assert gathered.dtype == torch.float32
    # No more memory than the rows need, whatever they were a view of.
    assert [rows.untyped_storage().nbytes() for rows in kept.features] == [24, 8]


@pytest.mark.parametrize(
    ("features", "indices", "message"),
    [
        (torch.zeros(2), torch.arange(2), r"shape \(B, D\) and indices \(B,\), got \(2,\) and \(2,\)"),
        (torch.zeros(2, 3), torch.arange(3), r"got \(2, 3\) and \(3,\)"),
        (torch.zeros(2, 4), torch.arange(2), "must have 3 dimensions as before, got 4"),
        (torch.tensor([[0.0] * 3, [float("inf")] * 3]), torch.tensor([6, 7]), r"those of image\(s\) \[7\]"),
    ],
)
def test_bad_features_are_named_and_left_out(features, indices, message):
    kept = KeptFeatures()
    kept.update(torch.ones(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=message):
        kept.update(features, indices)
    assert kept.gather().tolist() == [[1, 1, 1]]


def test_an_image_counts_once():
    kept = KeptFeatures()
    with pytest.raises(ValueError, match="there are no images"):
        kept.gather()
    kept.update(torch.zeros(3, 2), torch.tensor([0, 4, 2]))
    kept.update(torch.zeros(3, 2), torch.tensor([4, 0, 1]))
    with pytest.raises(ValueError, match=r"image\(s\) \[0, 4\] came more often"):
        kept.gather()
    kept.reset()
    kept.update(torch.zeros(1, 5), torch.tensor([0]))
    assert kept.gather().shape == (1, 5)
