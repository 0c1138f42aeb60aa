"""Measurements of a step: operations, memory and time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from meanflow.attention.triton_operator import FLOP_FORMULAS

Step = Callable[[], object]
Shape = tuple[int, ...]


def _forward_flops(q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    return sdpa_flop_count(q, k, v)


def _backward_flops(grad: Shape, q: Shape, k: Shape, v: Shape, *_: object, **__: object) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


# torch counts its fused attention on GPUs. It counts neither its fused attention on CPUs nor the attention of this
# project.
_ATTENTION = FLOP_FORMULAS | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}


def count_flops(step: Step) -> int:
    """Return the FLOPs of matrix products, convolutions and attention in a step."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        step()
    return counter.get_total_flops()


def saved_bytes(forward: Step, parameters: Iterable[Tensor]) -> int:
    """Return the bytes that a forward keeps for its backward pass.

    Each storage counts once, however many tensors look into it; parameters do not count.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not tensor._is_zerotensor():  # a tangent that is known to be zero has no storage
            address = tensor.untyped_storage().data_ptr()
            if address not in own:
                kept[address] = tensor.detach()  # alive, so that no other tensor takes the address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del result
    return total


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(step: Step, device: torch.device) -> float:
    """Return the wall time of a step, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def interleaved_medians(
    steps: Sequence[Callable[[int], object]], device: torch.device, least: int, most: int, enough: float = 45.0
) -> list[float]:
    """Return the median wall time of each of several steps, run in turns: a slow moment hits all of them.

    Args:
        steps: Called with the number of the round.
        device: Where they run.
        least: Rounds to run in any case.
        most: Rounds to run at most.
        enough: Seconds after which no further round begins.
    """
    times: list[list[float]] = [[] for _ in steps]
    begin = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - begin > enough:
            break
        for step, measured in zip(steps, times, strict=True):
            measured.append(seconds(partial(step, number), device))
    return [statistics.median(measured) for measured in times]


def peak_bytes(step: Step, device: torch.device) -> int:
    """Return the largest number of bytes allocated on a GPU during a step."""
    release_memory()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def release_memory() -> None:
    """Give memory that nobody uses back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def matmul_ceiling(device: torch.device, dtype: torch.dtype, size: int, repeats: int = 10) -> float:
    """Return the FLOPs per second of the best of several square matrix products, as a ceiling for utilization."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(repeats))


def clear_gradients(network: nn.Module) -> None:
    """Drop the gradients, as before each step."""
    for parameter in network.parameters():
        parameter.grad = None
