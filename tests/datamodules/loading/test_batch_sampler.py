import pytest
import torch

from datamodules.loading.batch_sampler import EpochBatchSampler
from datamodules.loading.dataset import LatentDataset
from datamodules.loading.loader import ResumableDataLoader
from tests.datamodules.small_store import write_counter


def test_ranks_share_the_global_batches_of_one_process():
    whole = EpochBatchSampler(29, 6, seed=3, horizontal_flip=True)
    halves = [EpochBatchSampler(29, 3, 3, True, rank, world_size=2) for rank in range(2)]
    for sampler in (whole, *halves):
        sampler.set_epoch(4)
        assert len(sampler) == 4
    assert list(whole) == [first + second for first, second in zip(*halves, strict=True)]
    assert len({index % 29 for batch in whole for index in batch}) == 24


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = EpochBatchSampler(20, 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2) != order(1, 2)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    order(0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_about_half_of_the_samples_are_flipped():
    sampler = EpochBatchSampler(4000, 4000, seed=0, horizontal_flip=True)
    (batch,) = sampler
    assert abs(sum(index >= 4000 for index in batch) / 4000 - 0.5) < 4 * 0.5 / 4000**0.5
    assert sorted(index % 4000 for index in batch) == list(range(4000))


def test_without_shuffling_the_order_is_that_of_the_data():
    assert list(EpochBatchSampler(7, 2, seed=0, shuffle=False)) == [[0, 1], [2, 3], [4, 5]]


def test_an_iteration_starts_anywhere_and_crosses_into_the_next_epoch():
    sampler = EpochBatchSampler(11, 2, seed=0)
    stream = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        stream += list(sampler)
    for start in range(10):
        sampler.set_start(start)
        assert list(sampler) == stream[start : start + 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 6, "world_size": 2}, "at most the 11 samples .* got 6 on each of 2"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, r"rank must lie in \[0, 2\), got 2"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochBatchSampler(11, seed=0, **arguments)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_asks_where_to_begin_and_leaves_the_global_generator_alone(tmp_path, num_workers):
    dataset = LatentDataset(write_counter(tmp_path / "store", 11))
    sampler = EpochBatchSampler(11, 2, seed=0)
    sampler.set_epoch(0)
    first = list(sampler)
    position = 0
    loader = ResumableDataLoader(dataset, EpochBatchSampler(11, 2, seed=0), lambda: position, num_workers)
    state = torch.get_rng_state()
    assert [batch.mean[:, 0, 0, 0].tolist() for batch in loader] == first
    position = 3
    batches = iter(loader)
    assert [next(batches).mean[:, 0, 0, 0].tolist() for _ in range(2)] == first[3:]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(loader) == 5
