import os
from pathlib import Path

import pytest
import torch

from meanflow.metrics import FeatureStatistics


def features(num_samples: int = 30, dim: int = 5, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return mean + std * torch.randn(num_samples, dim, generator=generator, dtype=torch.float64)


def accumulate(*batches: torch.Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for batch in batches:
        statistics.update(batch)
    return statistics


@pytest.mark.parametrize("sizes", [[30], [10, 15, 5], [1] * 30, [0, 29, 0, 1]])
def test_moments_do_not_depend_on_the_batches(sizes):
    x = features()
    mu, sigma, num_samples = accumulate(*x.split(sizes)).compute()
    assert num_samples == 30
    torch.testing.assert_close(mu, x.mean(dim=0), rtol=0, atol=1e-14)
    torch.testing.assert_close(sigma, torch.cov(x.T), rtol=0, atol=1e-13)


def test_small_deviations_about_a_large_mean_keep_their_digits():
    x = features(num_samples=1000, mean=1e6, std=1e-3)
    sigma = accumulate(*x.split(100)).compute().sigma
    # A mean of 1e6 leaves deviations of 1e-3 about seven digits in float64; sums of products would leave none.
    torch.testing.assert_close(sigma, torch.cov(x.T), rtol=0, atol=1e-6 * 1e-6)


def test_float32_features_are_accumulated_in_float64():
    x = features(num_samples=64).float()
    mu, sigma, _ = accumulate(*x.split(1)).compute()
    assert mu.dtype == sigma.dtype == torch.float64
    torch.testing.assert_close(mu, x.double().mean(dim=0), rtol=0, atol=1e-14)


def test_reset_forgets():
    statistics = accumulate(features() + 10)
    statistics.reset()
    statistics.update(features(dim=3))
    assert statistics.compute().mu.shape == (3,)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.tensor([[0.0] * 5, [float("nan")] * 5]), r"features must be finite, those of sample\(s\) \[1\]"),
        (torch.tensor([[float("inf")] * 5]), "features must be finite"),
        (torch.zeros(2, 4), "features must have 5 dimensions as before, got 4"),
        (torch.zeros(5), r"features must have shape \(B, D\), got \(5,\)"),
    ],
)
def test_bad_features(batch, message):
    statistics = accumulate(features())
    with pytest.raises(ValueError, match=message):
        statistics.update(batch)
    assert statistics.num_samples == 30


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        accumulate(features(num_samples=1)).compute()


def compute_on_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    shard = accumulate(features()[rank * 10 : rank * 10 + 10 + rank * 10])  # 10 and 20 samples
    lonely = accumulate(*([features()] if rank == 1 else []))  # no sample on rank 0
    torch.save(
        {"shard": tuple(shard.compute()), "local": shard.num_samples, "lonely": tuple(lonely.compute())},
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path):
    torch.multiprocessing.spawn(compute_on_rank, args=(os.fspath(tmp_path),), nprocs=2)
    mu, sigma, num_samples = accumulate(features()).compute()
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["local"] == 10 * (1 + rank)  # the shards are restored after compute
        for key in ("shard", "lonely"):
            assert result[key][2] == num_samples
            torch.testing.assert_close(result[key][0], mu, rtol=0, atol=1e-14)
            torch.testing.assert_close(result[key][1], sigma, rtol=0, atol=1e-13)


def test_merging_moments_is_accumulating_the_samples():
    x = features()
    whole, first, second = accumulate(x), accumulate(x[:12]), accumulate(x[12:])
    exact = FeatureStatistics()
    exact.merge(first.moments)
    assert torch.equal(exact.compute().sigma, first.compute().sigma)
    first.merge(second.moments)
    assert first.compute().num_samples == 30
    torch.testing.assert_close(first.compute().sigma, whole.compute().sigma, rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="moments must have 5 dimensions as before, got 4"):
        first.merge(accumulate(x[:, :4]).moments)
