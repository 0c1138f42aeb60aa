import pytest
import torch

from meanflow.objectives.label_dropping import check_probability, drop_labels


def test_dropped_labels_become_the_null_label():
    y = torch.tensor([3, 0, 7, 1])
    dropped = torch.tensor([True, False, False, True])
    assert drop_labels(y, dropped, null_label=10).tolist() == [10, 0, 7, 10]
    assert y.tolist() == [3, 0, 7, 1]
    assert drop_labels(y, dropped, 10).dtype == torch.int64


@pytest.mark.parametrize("value", [0, 0.1, 1])
def test_probabilities_are_accepted(value):
    assert check_probability("prob_drop_label", value) == value


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match=f"prob_drop_label must be from 0 to 1, got {value}"):
        check_probability("prob_drop_label", value)
