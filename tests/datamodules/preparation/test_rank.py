import pytest

from datamodules.preparation.rank import Rank


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank(0, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(5, 8, 1)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "5"}, Rank(3, 5)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "10",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "6",
                "SLURM_ARRAY_TASK_STEP": "5",
            },
            Rank(2, 6),
        ),
        # One program in an allocation of eight tasks is not one of eight.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Rank(0, 1)),
    ],
)
def test_ranks_are_detected(environment, expected):
    assert Rank.detect(environment=environment) == expected
    assert Rank.detect(1, 3, environment) == Rank(1, 3)
