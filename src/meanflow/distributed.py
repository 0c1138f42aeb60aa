"""The processes that share a job: the number of this process, and the exchange between processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from rich.console import Console
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


@dataclass(frozen=True)
class Ranks:
    """This process among the processes that share a job.

    Args:
        rank: Number of this process, in ``[0, world_size)``.
        world_size: Number of processes.
        local_rank: Number of the process's GPU on this machine.

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
    ) -> Ranks:
        """Return the given rank, or the rank that ``torchrun`` or a SLURM job array set in the environment.

        Raises:
            ValueError: If only one of ``rank`` and ``world_size`` is given, or the rank is out of range.
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

    def own(self, total: int) -> range:
        """Return the numbers of this process's samples of ``total``."""
        return range(self.rank, total, self.world_size)

    def console(self) -> Console:
        """Return a console that prints on the first process only. Its lines are wide if the output is no terminal."""
        console = Console(quiet=self.rank > 0)
        return console if console.is_terminal else Console(quiet=self.rank > 0, width=160)


def is_distributed() -> bool:
    """Return whether this process has a process group through which it reaches others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    """Wait for all processes, if there are several."""
    if is_distributed():
        torch.distributed.barrier()


@contextmanager
def first_rank_first(ranks: Ranks) -> Iterator[None]:
    """Let the other ranks enter when the first rank has left, however long that takes; all ranks must enter.

    The first rank downloads a file, the others find it in the cache.
    """
    if not is_distributed():
        yield
        return
    # Barriers of the default group end after half an hour; a group of gloo may wait for a long download.
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(group, torch.distributed.ProcessGroup)
    if ranks.rank > 0:
        torch.distributed.barrier(group)
    yield
    if ranks.rank == 0:
        torch.distributed.barrier(group)


def gather_tensors(tensor: Tensor, group: torch.distributed.ProcessGroup | None = None) -> list[Tensor]:
    """Return the tensors of all processes, on the device of this process's tensor.

    Without a process group, that is the one tensor. All processes must call this function. The tensors have the same
    number of axes. They may differ in size and in device: the tensor of a process without images is on the CPU.
    """
    if not is_distributed():
        return [tensor]
    parts = gather_all_tensors(tensor.to(communication_device()), group)
    return [part.to(tensor.device) for part in parts]


def communication_device() -> torch.device:
    """Return the device of tensors that other processes receive: the current GPU if the backend is NCCL alone."""
    if not is_distributed():
        return torch.device("cpu")
    backend = torch.distributed.get_backend()
    return torch.device("cuda" if "nccl" in backend and "gloo" not in backend else "cpu")
