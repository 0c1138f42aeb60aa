"""Cost of a training step (losses and gradients), ours against the official one, in one process.

``python -m benchmarks`` runs one such process per case, so that a case that fails or hangs takes nothing with it; this
one prints a line of JSON per finished measurement.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from benchmarks import cases
from benchmarks.baseline import Baseline
from benchmarks.cases import Case
from benchmarks.measure import (
    clear_gradients,
    count_flops,
    interleaved_medians,
    matmul_ceiling,
    peak_bytes,
    release_memory,
    saved_bytes,
    seconds,
)
from meanflow import random_streams
from meanflow.compilation import CompiledObjective, allow_variants, compile_blocks
from meanflow.types import LossOutput, Plan

NUM_COUNTED_BATCHES = 20
COUNTED_BATCH_SIZE = 8  # the official count was taken at this one
LEAST_ROUNDS = 3
MODES = ("eager", "blocks", "graph")


class Count:
    """FLOPs of the steps of a case, counted on tensors without memory, which go through the same operations.

    Args:
        case: Case whose operations are counted.
        attention: Attention of the network.
    """

    def __init__(self, case: Case, attention: str = "sdpa") -> None:
        self.shape = (COUNTED_BATCH_SIZE, 4, case.input_size, case.input_size)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            self.network, self.differentiated = case.network(attention), case.network("reference")
            self.objective = case.objective(case.teacher())
            self.x, self.y = torch.randn(self.shape), torch.zeros(self.shape[0], dtype=torch.int64)
            with torch.no_grad():
                self.forward = count_flops(lambda: case.forward(self.network, self.x))

    def plan(self, number: int) -> Plan:
        """Plan a step, in real tensors."""
        draw = self.objective.draw(self.shape, random_streams.generator(0, number, 0))
        return self.objective.plan(draw, torch.empty(self.shape))

    def our_forwards(self) -> float:
        """Return the FLOPs of our step in units of one forward, mean of 20 batches."""
        plans = [self.plan(number) for number in range(NUM_COUNTED_BATCHES)]
        # They are linear in the number of evaluations for guidance, the only thing that varies.
        numbers = [sum(map(len, plan.variable()[:1])) for plan in plans]
        fewest, most = min(numbers), max(numbers)
        low = self._ours(plans[numbers.index(fewest)])
        if most == fewest:
            return low
        high = self._ours(plans[numbers.index(most)])
        return low + (sum(numbers) / len(numbers) - fewest) * (high - low) / (most - fewest)

    def official_forwards(self) -> float:
        """Return the FLOPs of the literal official step in units of one forward."""
        baseline, plan = Baseline(self.objective, self.differentiated), self._fake(self.plan(0))
        with self.mode:
            step = lambda: baseline(self.network, self.x, self.y, plan.draws).mean().backward()
            return count_flops(step) / self.forward

    def _ours(self, plan: Plan) -> float:
        fake = self._fake(plan)
        with self.mode:
            step = lambda: self.objective.loss(self.network, self.x, self.y, fake).loss.mean().backward()
            return count_flops(step) / self.forward

    def _fake(self, plan: Plan) -> Plan:
        return tree_map_only(torch.Tensor, self.mode.from_tensor, plan)


class Bench:
    """Networks and steps of a case on a device.

    Args:
        case: Case to run.
        device: Where.
        batch_size: Number of samples.
    """

    def __init__(self, case: Case, device: torch.device, batch_size: int) -> None:
        self.device = device
        self.shape = (batch_size, 4, case.input_size, case.input_size)
        with torch.device(device):
            self.network, differentiated = case.network(attention_on(device)), case.network("reference")
            teacher = case.teacher()
            for network in (self.network, teacher):
                if network is not None:
                    cases.randomize(network)
            cases.share_parameters(self.network, differentiated)
            self.x = torch.randn(self.shape)
            self.y = torch.randint(0, 1000, (batch_size,))
        self.objective = case.objective(teacher)
        self.teacher = teacher
        self.baseline = Baseline(self.objective, differentiated)
        self.run: Callable[..., LossOutput] = self.objective

    def autocast(self) -> torch.autocast:
        """Return the precision of training: bfloat16 products on a GPU, float32 on a CPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def draw(self, number: int) -> tuple[Tensor, ...]:
        """Draw the random numbers of a step."""
        return self.objective.draw(self.shape, random_streams.generator(0, number, 0))

    def our_loss(self, number: int) -> Tensor:
        """Return our loss."""
        with self.autocast():
            return self.run(self.network, self.x, self.y, self.draw(number)).loss.mean()

    def official_loss(self, number: int) -> Tensor:
        """Return the official loss, of the same draws."""
        on_device = self.objective.plan(self.draw(number), self.x).draws
        with self.autocast():
            return self.baseline(self.network, self.x, self.y, on_device).mean()

    def our_step(self, number: int) -> None:
        """Compute our loss and its gradients."""
        clear_gradients(self.network)
        self.our_loss(number).backward()

    def official_step(self, number: int) -> None:
        """Compute the official loss and its gradients."""
        clear_gradients(self.network)
        self.official_loss(number).backward()

    def compile(self, mode: str) -> None:
        """Make our step run eagerly, with compiled blocks or as one graph."""
        for module in self.network.modules():
            module._compiled_call_impl = None
        self.run = self.objective
        if mode == "blocks":
            for network in (self.network, self.teacher):
                if network is not None:
                    compile_blocks(network)
        if mode == "graph":
            self.run = CompiledObjective(self.objective)


def attention_on(device: torch.device) -> str:
    """Return our attention: on a GPU the fused kernel for duals."""
    return "triton" if device.type == "cuda" else "sdpa"


def largest_fitting(case: Case, device: torch.device) -> Bench:
    """Return the case at the first of its batch sizes at which both steps fit the device."""
    for batch_size in case.batch_sizes:
        try:
            return _fitting(case, device, batch_size)
        except torch.cuda.OutOfMemoryError:
            pass
        release_memory()
    raise RuntimeError(f"{case.name}: no batch size of {case.batch_sizes} fits the device")


def _fitting(case: Case, device: torch.device, batch_size: int) -> Bench:
    bench = Bench(case, device, batch_size)
    if device.type == "cuda":
        bench.official_step(0)
        bench.our_step(0)
    return bench


def memory(bench: Bench, both: bool) -> dict[str, float]:
    """Return bytes saved for the backward pass on a CPU, peak memory on a GPU; of both steps, or of ours alone."""
    on_gpu = bench.device.type == "cuda"

    def measure(loss: Callable[[int], Tensor], step: Callable[[int], None]) -> float:
        clear_gradients(bench.network)
        if on_gpu:
            return peak_bytes(lambda: step(0), bench.device)
        return saved_bytes(lambda: loss(0), bench.network.parameters())

    key = "peak_bytes" if on_gpu else "saved_bytes"
    result = {key: measure(bench.our_loss, bench.our_step)}
    if both:
        result[f"baseline_{key}"] = measure(bench.official_loss, bench.official_step)
        result[f"{key}_ratio"] = result[key] / result[f"baseline_{key}"]
    return result


def rows(
    case: Case, device: torch.device, modes: list[str], rounds: int, alone: int | None
) -> Iterator[dict[str, Any]]:
    """Measure a case; yield a row per mode, once when operations and memory are known and again with times.

    A mode that fails has its error in the row.

    Args:
        case: Case to measure.
        device: Where.
        modes: Some of ``MODES``.
        rounds: Timed steps of each kind, at most.
        alone: Batch size at which to run our step alone, one that the official step has no memory for.
    """
    count = Count(case, attention_on(device))
    ours, official = count.our_forwards(), count.official_forwards()
    official = min(official, case.official_forwards or official)
    bench = Bench(case, device, alone) if alone else largest_fitting(case, device)
    batch_size = bench.shape[0]
    ceiling = matmul_ceiling(device, torch.bfloat16 if device.type == "cuda" else torch.float32, _matmul_size(device))
    common = {
        "method": case.method,
        "network": case.name.split()[1],
        "resolution": 8 * case.input_size,
        "device": device.type,
        "batch_size": batch_size,
        "flops_forwards": ours,
        "baseline_flops_forwards": official,
        "flops_ratio": ours / official,
        "matmul_tflops": ceiling / 1e12,
    }
    best_official = None
    for mode in modes:
        row = common | {"mode": mode}
        try:
            bench.compile(mode)
            row["first_step_seconds"] = seconds(lambda: bench.our_step(0), device)
            # The official step does not compile into one graph; there it is represented by its best time so far.
            both = not alone and (mode != "graph" or best_official is None)
            row |= memory(bench, both)
            yield row
            steps = [bench.our_step, bench.official_step] if both else [bench.our_step]
            for number in range(2 if device.type == "cuda" else 0):
                for step in steps:
                    step(number)
            times = interleaved_medians(steps, device, LEAST_ROUNDS, rounds)
            row |= {
                "step_seconds": times[0],
                "images_per_second": batch_size / times[0],
                "mfu": ours * count.forward / COUNTED_BATCH_SIZE * batch_size / times[0] / ceiling,
            }
            if both:
                best_official = min(times[1], best_official or times[1])
            if best_official is not None:
                row |= {
                    "baseline_step_seconds": best_official,
                    "baseline_images_per_second": batch_size / best_official,
                    "time_ratio": times[0] / best_official,
                }
        except Exception as error:
            message = str(error).strip().splitlines() or [""]
            row["error"] = f"{type(error).__name__}: {message[0]}"[:300]
        release_memory()
        yield row


def _matmul_size(device: torch.device) -> int:
    return 8192 if device.type == "cuda" else 1024


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings: torch's compiler and ``torch.func`` warn about torch itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Measure one case and print its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--case", type=int, required=True, help="index into the cases of that device")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager"])
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each kind, at most (default: 9)")
    parser.add_argument("--alone", type=int, metavar="BATCH_SIZE", help="run our step alone, at this batch size")
    arguments = parser.parse_args()
    case = (cases.GPU_CASES if arguments.device == "cuda" else cases.CPU_CASES)[arguments.case]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    allow_variants()
    start = time.perf_counter()
    with quiet():
        device = torch.device(arguments.device)
        for row in rows(case, device, arguments.modes, arguments.rounds, arguments.alone):
            print(json.dumps(row | {"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
