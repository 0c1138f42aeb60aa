"""Images per second, model-FLOP utilization and memory."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import LightningModule, Trainer
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from callbacks.every_n_steps import EveryNSteps
from callbacks.trainer_parts import generative_module
from meanflow import random_streams
from meanflow.attention.triton_operator import FLOP_FORMULAS
from meanflow.modules import GenerativeModule
from meanflow.modules.sharding import is_sharded, reshard
from meanflow.types import LatentBatch

# FLOPs are counted on this number of samples. They are proportional to the batch size.
NUM_COUNTED_SAMPLES = 8


class Throughput(EveryNSteps):
    """Logs speed and memory of the last ``every_n_train_steps`` steps.

    Times are wall times. They include loading of data, logging and other callbacks. The logged values are:

    - ``throughput/images_per_second`` of all devices;
    - ``throughput/step_seconds``;
    - ``throughput/memory_gib``: peak memory of the GPU, or of the process on a CPU;
    - ``throughput/tflops_per_second`` of one device;
    - ``throughput/mfu``, the share of the peak speed of the device, if that speed is known.

    Lightning's ``ThroughputMonitor`` is not used, because it waits for the GPU at each step.

    Args:
        every_n_train_steps: Interval in optimizer steps.
    """

    def __init__(self, every_n_train_steps: int = 50) -> None:
        super().__init__(every_n_train_steps)
        self._flops_per_sample: float | None = None
        self._since = 0.0
        self._num_steps = 0
        self._num_samples = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the FLOPs before the first batch, then start the clock."""
        if self._flops_per_sample is None:
            self._flops_per_sample = flops_per_sample(generative_module(pl_module), batch)
            self._start(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples."""
        self._num_samples += len(batch.y)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the step."""
        self._num_steps += 1
        super().on_step(trainer, pl_module)

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, then start the clock again."""
        synchronize(pl_module.device)
        seconds = time.perf_counter() - self._since
        per_device = self._num_samples / seconds
        values = {
            "images_per_second": per_device * trainer.world_size,
            "step_seconds": seconds / self._num_steps,
            "memory_gib": peak_memory(pl_module.device) / 2**30,
        }
        if self._flops_per_sample:
            flops_per_second = per_device * self._flops_per_sample
            values["tflops_per_second"] = flops_per_second / 1e12
            peak = get_available_flops(pl_module.device, compute_dtype(trainer))
            if peak:
                values["mfu"] = flops_per_second / peak
        pl_module.log_dict({f"throughput/{name}": value for name, value in values.items()}, rank_zero_only=True)
        self._start(pl_module.device)

    def _start(self, device: torch.device) -> None:
        synchronize(device)
        self._since = time.perf_counter()
        self._num_steps = self._num_samples = 0


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work. Do nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated memory of a GPU, or resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compute_dtype(trainer: Trainer) -> torch.dtype:
    """Return the data type of matrix products."""
    return {"bf16": torch.bfloat16, "16": torch.float16}.get(str(trainer.precision).split("-")[0], torch.float32)


def flops_per_sample(module: GenerativeModule, batch: LatentBatch) -> float:
    """Return the FLOPs of a training step per sample, forward and backward, counted on the uncompiled network.

    If activation checkpointing repeats a forward pass, the repetition does not count.
    """
    few = tree_map_only(torch.Tensor, lambda tensor: tensor[:NUM_COUNTED_SAMPLES], batch)
    network = module.network
    repeats, network.activation_checkpointing = network.activation_checkpointing, False
    try:
        with (
            FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter,
            module.trainer.precision_plugin.train_step_context(),
            torch.compiler.set_stance("force_eager"),
        ):
            run_backward(module.loss(few, random_streams.generator(module.seed, 0, 0)).loss.mean(), network)
    finally:
        network.activation_checkpointing = repeats
    return counter.get_total_flops() / len(few.y)


def run_backward(loss: torch.Tensor, network: torch.nn.Module) -> None:
    """Compute the gradients of a network's parameters, and discard them."""
    if is_sharded(network):  # the leaves of the graph are the gathered weights, not the parameters
        loss.backward()
        reshard(network)
        network.zero_grad()
    else:  # autograd.grad does not call the hooks of DDP, which would wait for other ranks
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss, parameters, allow_unused=True)
