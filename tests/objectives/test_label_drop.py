import pytest
import torch

from meanflow.objectives.label_drop import IndependentLabelDrop, LeadingLabelDrop, drop_labels
from meanflow.random_streams import generator


def test_dropped_labels_become_the_null_label():
    y = torch.tensor([3, 0, 7, 1])
    dropped = torch.tensor([True, False, False, True])
    assert drop_labels(y, dropped, null_label=10).tolist() == [10, 0, 7, 10]
    assert y.tolist() == [3, 0, 7, 1]
    assert drop_labels(y, dropped, 10).dtype == torch.int64


@pytest.mark.parametrize("value", [0, 0.1, 1])
def test_probabilities_are_accepted(value):
    assert IndependentLabelDrop(value).prob_drop_label == value


@pytest.mark.parametrize("drop", [IndependentLabelDrop, LeadingLabelDrop])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_anything_else_is_refused(drop, value):
    with pytest.raises(ValueError, match=f"prob_drop_label must be from 0 to 1, got {value}"):
        drop(value)


@pytest.mark.parametrize("num_samples", [1, 10, 40_000])
def test_leading_drops_are_as_many_and_fall_on_the_first_samples(num_samples):
    independent = IndependentLabelDrop(0.3).sample(num_samples, generator(0))
    leading = LeadingLabelDrop(0.3).sample(num_samples, generator(0))
    assert independent.dtype == leading.dtype == torch.bool
    count = int(independent.sum())
    assert leading.tolist() == [True] * count + [False] * (num_samples - count)


def test_independent_drops_have_the_probability_and_no_order():
    dropped = IndependentLabelDrop(0.3).sample(40_000, generator(1)).double()
    for part in (dropped, dropped[:20_000], dropped[1:] * dropped[:-1] / 0.3):
        assert abs(part.mean().item() - 0.3) < 0.02
    assert not IndependentLabelDrop(0.0).sample(1000, generator(0)).any()
    assert IndependentLabelDrop(1.0).sample(1000, generator(0)).all()
