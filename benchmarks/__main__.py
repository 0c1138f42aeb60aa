"""All benchmarks: ``make bench``, or ``python -m benchmarks --help``.

Writes ``results/bench/<machine>.json`` and a table in the same folder, after every row. Every part runs in a process of
its own with a time limit. A part that fails or does not finish has a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import cases
from benchmarks.report import Report

ROOT = Path(__file__).parent.parent
# No part is begun with less time than this.
LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Part:
    """A process that prints rows.

    Attributes:
        benchmark: Kind of its rows: ``train_step``, ``sample``, ``attention``, ``products`` or ``evaluate``.
        name: Name of the part in the progress bar.
        command: Module and arguments.
        limit: Seconds after which the part is stopped.
        about: Values that identify its rows. The row of a failed part has these values and the error.
    """

    benchmark: str
    name: str
    command: list[str]
    limit: float
    about: dict[str, Any]


def main() -> None:
    """Run all parts and write the results."""
    arguments = parse()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    path = arguments.output or ROOT / "results" / "bench" / f"{machine_name(device)}.json"
    report = Report(path, machine(device))
    if device == "cpu":
        report.note("No NVIDIA GPU was used: there are no rows for one, and nothing is estimated.")
    minutes = arguments.minutes or {"cpu": 9.5, "cuda": 7.5}[device]
    deadline = time.monotonic() + 60 * minutes
    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        chosen = [part for part in parts(device) if selected(part, arguments.only)]
        bar = progress.add_task("benchmarks", total=len(chosen))
        for part in chosen:
            progress.update(bar, description=part.name)
            run(part, report, deadline - time.monotonic(), console)
            progress.advance(bar)
    console.print(report.markdown(), highlight=False)
    console.print(f"written: {path} and {path.with_suffix('.md').name}", highlight=False)


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument("--minutes", type=float, help="time for everything (default: 9.5 on a CPU, 7.5 on a GPU)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"of train_step, sample, attention, products, evaluate, {', '.join(cases.METHODS)}",
    )
    parser.add_argument("--output", type=Path, help="JSON file (default: results/bench/<machine>.json)")
    return parser.parse_args()


def parts(device: str) -> list[Part]:
    """Return all parts, the most important ones first."""
    sampling = Part("sample", "sampling", ["benchmarks.sample", "--device", device], 120, {})
    products = Part("products", "products", ["benchmarks.products", "--device", device], 30, {})
    evaluation = Part("evaluate", "evaluation", ["benchmarks.evaluate", "--device", device, "--rounds", "3"], 60, {})
    if device == "cpu":
        # Compiling for a CPU takes longer than everything else.
        training = [training_part(number, device, ["eager"], 240) for number in range(len(cases.CPU_CASES))]
        return [*training[:2], sampling, products, evaluation, *training[2:]]
    modes = ["eager", "blocks"]
    training = []
    for number, case in enumerate(cases.GPU_CASES):
        # One graph of a large network takes minutes to compile.
        training.append(training_part(number, device, [*modes, "graph"] if case.size == "S/2" else modes, 150))
    alone = training_part(0, device, ["blocks"], 90, alone=64)
    attention = Part("attention", "attention", ["benchmarks.attention", "--json"], 90, {})
    return [training[0], attention, sampling, training[1], alone, products, evaluation, *training[2:]]


def training_part(number: int, device: str, modes: list[str], limit: float, alone: int | None = None) -> Part:
    """Return the part that measures the training step of a case, or ours alone at some batch size."""
    case = (cases.GPU_CASES if device == "cuda" else cases.CPU_CASES)[number]
    command = ["benchmarks.train_step", "--device", device, "--case", str(number)]
    command += ["--modes", *modes, *(["--alone", str(alone)] if alone else [])]
    about = {"method": case.method, "network": case.name.split()[1], "resolution": 8 * case.input_size}
    return Part("train_step", f"{case.name}, ours alone" if alone else case.name, command, limit, about)


def selected(part: Part, only: list[str]) -> bool:
    """Tell whether a part was asked for."""
    return not only or part.benchmark in only or part.about.get("method") in only


def run(part: Part, report: Report, remaining: float, console: Console) -> None:
    """Run a part and add its rows to the report as they come; if it does not end well, one row says so."""
    limit = min(part.limit, remaining)
    failed = {"benchmark": part.benchmark, "device": report.machine["device"], **part.about}
    if limit < LEAST_SECONDS:
        report.add(failed | {"error": "not run: the time for all benchmarks was spent"})
        return
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    timed_out = threading.Event()
    complaints: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", *part.command],
        cwd=ROOT,
        # Threads that spin while they wait make a shared machine useless.
        env={"GOMP_SPINCOUNT": "1000"} | os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:

        def stop() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(limit, stop)
        timer.start()
        reader = threading.Thread(target=lambda: complaints.extend(process.stderr or []))
        reader.start()
        for line in process.stdout or []:
            if line.startswith("{"):
                row = {"benchmark": part.benchmark, **json.loads(line)}
                report.add(row)
                if "error" in row:
                    console.print(f"{part.name}: {row['error']}", highlight=False)
        code = process.wait()
        timer.cancel()
        reader.join()
    if timed_out.is_set():
        report.add(failed | {"error": f"stopped after {limit:.3g} s"})
    elif code:
        last = next((line.strip() for line in reversed(complaints) if line.strip()), "no message")
        report.add(failed | {"error": f"exit status {code}: {last}"[:300]})
    if code:
        console.print(f"{part.name}: {report.rows[-1]['error']}", highlight=False)


def machine_name(device: str) -> str:
    """Return a name of the kind of machine, such as ``cpu-2-cores`` or ``nvidia-h100``."""
    if device == "cpu":
        return f"cpu-{os.cpu_count()}-cores"
    words = torch.cuda.get_device_name().lower().replace("nvidia", "").split()
    return f"nvidia-{words[0] if words else 'gpu'}"


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the versions."""
    described = {
        "device": device,
        "processor": torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device == "cuda":
        described["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return described


if __name__ == "__main__":
    main()
