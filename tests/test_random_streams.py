import itertools

import pytest
import torch

from meanflow import random_streams


def numbers(*arguments: int, **purpose: int) -> tuple[float, ...]:
    return tuple(torch.randn(8, generator=random_streams.generator(*arguments, **purpose)).tolist())


def test_same_arguments_same_numbers():
    torch.manual_seed(0)
    first = numbers(3, 10, 1)
    torch.manual_seed(1)  # the global generator has no part in it
    assert numbers(3, 10, 1) == first


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    numbers(3, 10, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_argument_matters():
    purposes = (
        random_streams.TRAINING,
        random_streams.SAMPLING,
        random_streams.DATA_ORDER,
        random_streams.DATA_FLIP,
        random_streams.INITIALIZATION,
        random_streams.SPLIT,
    )
    assert len(set(purposes)) == 6
    keys = list(itertools.product((0, 1, 2**40), (0, 1, 2), (0, 1), purposes))
    streams = {numbers(seed, step, rank, purpose=purpose) for seed, step, rank, purpose in keys}
    assert len(streams) == len(keys)


def test_seed_step_and_rank_do_not_stand_in_for_one_another():
    assert len({numbers(1, 0, 0), numbers(0, 1, 0), numbers(0, 0, 1), numbers(0, 0, 0, purpose=1)}) == 4
    assert numbers(5, 1) != numbers(5, 1, 1)


def test_neighbouring_steps_are_uncorrelated():
    streams = torch.stack([torch.randn(10_000, generator=random_streams.generator(0, step, 0)) for step in range(6)])
    correlation = torch.corrcoef(streams) - torch.eye(6)
    assert correlation.abs().max() < 0.05  # five standard errors


def test_numbers_are_made_on_the_cpu():
    assert random_streams.generator(0).device == torch.device("cpu")


@pytest.mark.parametrize("seed", [0, 2**63, 2**80])
def test_any_seed_from_zero_on(seed):
    assert len(numbers(seed)) == 8


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        random_streams.generator(-1)


def test_the_numbers_stay_as_they_are():
    """A change here changes every run at a fixed seed."""
    assert random_streams.generator(7, 100, 2).initial_seed() == 9152600260254464158
