"""Tensors of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics.utilities.distributed import gather_all_tensors


def gather_tensors(tensor: Tensor, group: Any | None = None) -> list[Tensor]:
    """Return the tensors of all ranks, on the device of this rank's; without a process group, this one only.

    All ranks must call it. Tensors have the same number of axes and may differ in size and, as when a rank has seen no
    image and hence no GPU, in device.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return [tensor]
    parts = gather_all_tensors(tensor.to(communication_device()), group)
    return [part.to(tensor.device) for part in parts]


def communication_device() -> torch.device:
    """Return where tensors must be to reach other ranks: NCCL alone takes tensors on the current GPU only."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return torch.device("cpu")
    backend = distributed.get_backend()
    return torch.device("cuda" if "nccl" in backend and "gloo" not in backend else "cpu")
