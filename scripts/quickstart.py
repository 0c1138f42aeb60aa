"""Train a flow and two flow maps on real digits, sample from them, and score them, with the programs of a user.

Two chains of programs run side by side, each on half of the processor cores. The first chain trains the flow and the
flow map that starts from it (DMF). The second chain trains the flow map from scratch (iMF). The script writes
results/quickstart.json, a picture of samples and a plot of the distance over the number of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("flow", "dmf", "imf")
NUM_STEPS = {"flow": (1, 4, 64), "dmf": (1, 2, 4), "imf": (1, 2, 4)}
# Names of the three models in the results.
KEYS = {"flow": "teacher", "dmf": "dmf", "imf": "imf"}
# The C library returns large freed blocks to the operating system, which costs a DMF step over 10,000 page faults. With
# these two it keeps them for the next step.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


@dataclass(frozen=True)
class Cost:
    """Cost of one program, including its start.

    Attributes:
        seconds: Wall time. On a busy machine it depends on the other programs.
        processor_seconds: Processor time of all threads.
    """

    seconds: float
    processor_seconds: float


class Chains:
    """Programs of the project that run in two chains at the same time.

    Args:
        seed: Seed of the trainings and of the samples.
        runs: Folder of each run, by kind.
        overrides: Configuration that all trainings share.

    Attributes:
        costs: Cost of each program that has ended, by name.
    """

    def __init__(self, seed: int, runs: dict[str, Path], overrides: list[str]) -> None:
        self.seed = seed
        self.runs = runs
        self.overrides = overrides
        self.costs: dict[str, Cost] = {}
        self._running: list[subprocess.Popen[str]] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run both chains to their ends.

        Raises:
            SystemExit: If a program fails. The program of the other chain is terminated.
        """
        with ThreadPoolExecutor(max_workers=2) as pool:
            pool.map(self._run_chain, (self._flow_and_dmf, self._imf))
        if self._error is not None:
            raise self._error

    def checkpoint(self, kind: str) -> Path:
        """Return the path of the last checkpoint of a training run."""
        return self.runs[kind] / "checkpoints" / "last.ckpt"

    def _flow_and_dmf(self) -> None:
        self._train("flow")
        self._train("dmf", f"init_from={self.checkpoint('flow')}")
        self._evaluate("flow")
        self._evaluate("dmf")

    def _imf(self) -> None:
        self._train("imf")
        self._evaluate("imf")

    def _run_chain(self, chain: Callable[[], None]) -> None:
        try:
            chain()
        except BaseException as error:
            self._stop(error)

    def _train(self, kind: str, *overrides: str) -> None:
        run_dir = f"run_dir={self.runs[kind]}"
        arguments = [f"experiment=quickstart_{kind}", f"seed={self.seed}", "resume=null", run_dir]
        self._call(f"train_{kind}", "train.py", *arguments, *self.overrides, *overrides)

    def _evaluate(self, kind: str) -> None:
        self._call(
            f"evaluate_{kind}",
            "evaluate.py",
            f"ckpt={self.checkpoint(kind)}",
            f"sampler.num_steps=[{','.join(map(str, NUM_STEPS[kind]))}]",
            f"seed={self.seed}",
            "device=cpu",
            f"results={self.runs[kind] / 'evaluation.json'}",
        )

    def _call(self, name: str, program: str, *arguments: str) -> None:
        """Run a program, show its command line and its output, and record its cost."""
        show(name, f"$ python {program} {' '.join(arguments)}")
        start = time.perf_counter()
        with self._lock:
            if self._error is not None:
                raise self._error
            process = subprocess.Popen(
                [sys.executable, ROOT / program, *arguments],
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._running.append(process)
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                show(name, line.rstrip())
        _, status, usage = os.wait4(process.pid, 0)
        with self._lock:
            self._running.remove(process)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"error: {program} ended with exit status {process.returncode}")
        self.costs[name] = Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)

    def _stop(self, error: BaseException) -> None:
        """Keep the first error, terminate the program of the other chain, and prevent further programs."""
        with self._lock:
            self._error = self._error or error
            for process in self._running:
                process.terminate()


def main() -> None:
    """Run the programs, collect their scores, and plot them."""
    parser = argparse.ArgumentParser(description="Flow, flow maps, samples and scores, on real digits, on a CPU.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings and of the samples")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the runs")
    parser.add_argument("--max-steps", type=int, help="shorten the trainings, to try the chains out")
    arguments = parser.parse_args()
    name = "quickstart" if arguments.seed == 0 else f"quickstart_seed{arguments.seed}"
    runs = {kind: (arguments.runs / f"{name}_{kind}").resolve() for kind in KINDS}
    overrides = [] if arguments.max_steps is None else [f"trainer.max_steps={arguments.max_steps}"]

    chains = Chains(arguments.seed, runs, overrides)
    start = time.perf_counter()
    chains.run()
    wall_time = time.perf_counter() - start
    results = collect(runs) | cost_table(chains.costs, wall_time)

    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    checkpoints = {kind: chains.checkpoint(kind) for kind in KINDS}
    draw_samples(checkpoints, arguments.seed, arguments.results / f"{name}_samples.png")
    draw_distances(results, arguments.results / f"{name}_steps.png")
    print_table(results)
    print(f"wrote {arguments.results / name}.json, _samples.png and _steps.png", flush=True)


def environment() -> dict[str, str]:
    """Return the environment of a program: half of the processor cores, memory that is kept, and unbuffered output."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // 2))} | KEEP_MEMORY | os.environ | {"PYTHONUNBUFFERED": "1"}


def show(name: str, line: str) -> None:
    """Print the name of a program and a line of its output."""
    print(f"{name:<13} | {line}", flush=True)


def collect(runs: dict[str, Path]) -> dict[str, Any]:
    """Return the distances of all models by number of steps, and the distance of two halves of the data."""
    scores = {kind: read_scores(run / "evaluation.json") for kind, run in runs.items()}
    results: dict[str, Any] = {KEYS[kind]: distances for kind, (distances, _) in scores.items()}
    return results | {"real_split": scores["flow"][1]}


def cost_table(costs: dict[str, Cost], wall_time: float) -> dict[str, dict[str, float]]:
    """Return the costs by part. The parts overlap in time."""
    tables = {}
    for key in ("seconds", "processor_seconds"):
        parts = {kind: getattr(costs[f"train_{kind}"], key) for kind in KINDS}
        parts["evaluate"] = sum(getattr(costs[f"evaluate_{kind}"], key) for kind in KINDS)
        tables[key] = {"pretrain": parts["flow"], "finetune": parts["dmf"], "imf": parts["imf"]}
        tables[key]["evaluate"] = parts["evaluate"]
    tables["seconds"]["all"] = wall_time
    tables["processor_seconds"]["all"] = sum(tables["processor_seconds"].values())
    return tables


def read_scores(path: Path) -> tuple[dict[str, float], float]:
    """Return the distances of an evaluation by number of steps, and the distance of two halves of the data."""
    evaluation = json.loads(path.read_text())
    scores = {str(row["sampler"]["num_steps"]): row["metrics"]["fd_pixels"] for row in evaluation["rows"]}
    return scores, evaluation["real_split"]["fd_pixels"]


def draw_samples(checkpoints: dict[str, Path], seed: int, path: Path) -> None:
    """Draw the same labels from the same noise: data, teacher and flow map, one row each."""
    import matplotlib
    import torch

    matplotlib.use("Agg")
    from matplotlib import pyplot

    import meanflow
    from datamodules import DigitsDataModule
    from meanflow.display.image_grid import image_grid

    data = DigitsDataModule(os.fspath(ROOT / "data" / "digits"))
    labels = torch.arange(10).repeat(2)
    first = [int((data.labels == label).nonzero()[number]) for number in (0, 1) for label in range(10)]
    teacher, dmf, imf = (meanflow.load(checkpoints[kind]) for kind in KINDS)
    rows = {"data": teacher.decode(data.latents(first))}
    rows |= {f"flow, {n} step{'s' * (n > 1)}": teacher.sample(labels, num_steps=n, seed=seed) for n in (64, 4, 1)}
    rows |= {f"DMF, {n} step{'s' * (n > 1)}": dmf.sample(labels, num_steps=n, seed=seed) for n in (4, 1)}
    rows |= {f"iMF, {n} step{'s' * (n > 1)}": imf.sample(labels, num_steps=n, seed=seed) for n in (4, 1)}
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(10, 0.56 * len(rows)), layout="constrained")
    for axis, (title, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(image_grid(images, num_columns=20, min_side=32), interpolation="nearest")
        axis.set_ylabel(title, rotation=0, horizontalalignment="right", verticalalignment="center")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.savefig(path, dpi=120)


def draw_distances(results: dict[str, Any], path: Path) -> None:
    """Plot the distance over the number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for key, label, marker in (
        ("teacher", "flow (Euler)", "o"),
        ("dmf", "Decoupled MeanFlow", "s"),
        ("imf", "improved MeanFlow", "^"),
    ):
        axis.plot([int(n) for n in results[key]], list(results[key].values()), marker=marker, label=label)
    axis.axhline(results["real_split"], color="gray", linestyle="--", label="two halves of the data")
    axis.set(xscale="log", yscale="log", xlabel="sampling steps", ylabel="Fréchet distance (pixels)")
    axis.set_xticks([1, 2, 4, 64], labels=["1", "2", "4", "64"])
    axis.set_yticks(ticks := [0.2, 0.5, 1, 2, 5], labels=map(str, ticks))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def print_table(results: dict[str, Any]) -> None:
    """Print the scores."""
    from rich.console import Console
    from rich.table import Table

    steps = sorted({int(n) for key in ("teacher", "dmf", "imf") for n in results[key]})
    table = Table(title="Fréchet distance in pixels, 1,797 samples, by number of steps")
    for heading in ("", *map(str, steps)):
        table.add_column(heading, justify="right" if heading else "left")
    for key, title in (("teacher", "flow"), ("dmf", "Decoupled MeanFlow"), ("imf", "improved MeanFlow")):
        values = [results[key].get(str(n)) for n in steps]
        table.add_row(title, *("" if value is None else f"{value:.3f}" for value in values))
    table.caption = f"two halves of the data: {results['real_split']:.3f}"
    Console().print(table)


if __name__ == "__main__":
    main()
