import os
from pathlib import Path

import pytest
import torch

from meanflow import distributed
from meanflow.distributed import Ranks, first_rank_first
from meanflow.metrics import FeatureStatistics
from tests.metrics import every_metric


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks(0, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Ranks(5, 8, 1)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "5"}, Ranks(3, 5)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "10",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "6",
                "SLURM_ARRAY_TASK_STEP": "5",
            },
            Ranks(2, 6),
        ),
        # One program in an allocation of eight tasks is not one of eight.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Ranks(0, 1)),
    ],
)
def test_ranks_are_detected(environment, expected):
    assert Ranks.detect(environment=environment) == expected
    assert Ranks.detect(1, 3, environment) == Ranks(1, 3)


def test_one_process_has_what_it_has():
    x = torch.arange(3)
    assert distributed.gather_tensors(x) == [x]
    assert distributed.communication_device() == torch.device("cpu")
    with first_rank_first(Ranks()):
        pass


@pytest.mark.parametrize(("backend", "device"), [("gloo", "cpu"), ("nccl", "cuda"), ("cpu:gloo,cuda:nccl", "cpu")])
def test_device_of_the_backend(monkeypatch, backend, device):
    monkeypatch.setattr(distributed.torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.torch.distributed, "get_backend", lambda: backend)
    assert distributed.communication_device() == torch.device(device)


def compute_on_rank(rank: int, folder: str) -> None:
    reference = every_metric.reference()
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    # 8 and 16 images, and none and all.
    unequal = [[range(0, 24, 3)], [range(1, 24, 3), range(23, 0, -3)]][rank]
    one_idle = [[], [range(every_metric.NUM_IMAGES)]][rank]
    values = [every_metric.values(batches, reference) for batches in (unequal, one_idle)]

    statistics = FeatureStatistics()
    for batch in unequal:
        statistics.update(every_metric.features(0).pooled[list(batch)])
    moments = statistics.compute()

    present = Path(folder, "downloaded")
    with first_rank_first(Ranks(rank, 2)):
        found = present.exists()
        present.touch()
    torch.save(
        {"values": values, "moments": tuple(moments), "local": statistics.num_samples, "found": found},
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path):
    torch.multiprocessing.spawn(compute_on_rank, args=(os.fspath(tmp_path),), nprocs=2)
    reference = every_metric.reference()
    expected = every_metric.values([range(every_metric.NUM_IMAGES)], reference)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for found in result["values"]:
            assert found.keys() == expected.keys()
            for name, value in found.items():
                # Metrics of features see the same features in the same order; moments are merged in another.
                exactly = not name.startswith(("fid", "sfid", "fd_"))
                assert value == (expected[name] if exactly else pytest.approx(expected[name], rel=1e-10)), name

        mu, sigma, num_samples = reference.pooled["inception"]
        torch.testing.assert_close(result["moments"][0], mu, rtol=0, atol=1e-14)
        torch.testing.assert_close(result["moments"][1], sigma, rtol=0, atol=1e-13)
        assert result["moments"][2] == num_samples == 24
        assert result["local"] == 8 * (1 + rank)  # the shards are restored after compute
        assert result["found"] == (rank == 1)  # the file that the first rank made before
