"""Labels of the samples of an evaluation."""

import pytest
import torch

from meanflow.evaluation.labels import BalancedLabels, DataLabels, RandomLabels


def test_balanced():
    labels = BalancedLabels()(50, 10)
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [5] * 10
    assert BalancedLabels()(53, 10).bincount().max() - BalancedLabels()(53, 10).bincount().min() == 1


def test_random_are_uniform_and_depend_on_the_seed_alone():
    labels = RandomLabels(seed=3)(20_000, 10)
    assert torch.equal(labels, RandomLabels(seed=3)(20_000, 10))
    assert not torch.equal(labels, RandomLabels(seed=4)(20_000, 10))
    # 2,000 expected of each, with a standard deviation of 42.
    assert (labels.bincount(minlength=10) - 2000).abs().max() < 210


def test_random_draws_leave_the_global_stream_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    RandomLabels()(10, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_of_the_data():
    own = torch.tensor([2, 0, 1])
    assert torch.equal(DataLabels()(3, 3, own), own)
    with pytest.raises(ValueError, match="labels of 4 data, got 3"):
        DataLabels()(4, 3, own)
    with pytest.raises(ValueError, match="labels of 4 data, got none"):
        DataLabels()(4, 3)


def test_config_is_plain():
    assert RandomLabels(seed=3).config == {"name": "RandomLabels", "seed": 3}
    assert BalancedLabels().config == {"name": "BalancedLabels"}
