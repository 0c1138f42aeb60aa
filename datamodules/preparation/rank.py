"""Which of several processes this one is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rank:
    """One of the processes that share a job. They need not reach each other, only the same folder.

    Args:
        rank: Number of this process, in ``[0, world_size)``.
        world_size: Number of processes.
        local_rank: Number of its GPU on this machine.

    Raises:
        ValueError: If ``rank`` is out of range.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in [0, world_size = {self.world_size}), got {self.rank}")

    @classmethod
    def detect(
        cls, rank: int | None = None, world_size: int | None = None, environment: Mapping[str, str] = os.environ
    ) -> Rank:
        """Return the given rank, or the one that ``torchrun`` or a SLURM job array set in the environment.

        Raises:
            ValueError: If only one of the two numbers is given, or the rank is out of range.
        """
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank and world_size go together, got {rank} and {world_size}")
        if rank is not None and world_size is not None:
            return cls(rank, world_size)
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return cls(*(int(environment.get(key, 0)) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        if "SLURM_ARRAY_TASK_ID" in environment:
            task, first, count, step = (
                int(environment.get(f"SLURM_ARRAY_TASK_{key}", default))
                for key, default in (("ID", 0), ("MIN", 0), ("COUNT", 1), ("STEP", 1))
            )
            return cls((task - first) // step, count)
        return cls()

    def device(self, name: str = "auto") -> torch.device:
        """Return the device of a name; ``auto`` is this process's GPU, or the CPU where there is none.

        Raises:
            ValueError: If there is no such device.
        """
        if name == "auto":
            name = f"cuda:{self.local_rank}" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device {name!r} is not there: {torch.cuda.device_count()} GPUs are visible")
        return device
