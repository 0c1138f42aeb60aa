"""Flow -> flow map, and a flow map from scratch -> samples and scores, on real digits, with the programs of a user.

Writes results/quickstart.json, a picture of samples and a plot of the distance over the number of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEACHER_STEPS = (1, 4, 64)
MAP_STEPS = (1, 2, 4)
KINDS = ("flow", "dmf", "imf")


def main() -> None:
    """Run the four programs, collect what they measured, and draw."""
    parser = argparse.ArgumentParser(description="Flow, flow map, samples and scores, on real digits, on a CPU.")
    parser.add_argument("--seed", type=int, default=0, help="seed of both trainings and of the samples")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the runs")
    parser.add_argument("--max-steps", type=int, help="shorten both trainings, to try the chain out")
    arguments = parser.parse_args()
    name = "quickstart" if arguments.seed == 0 else f"quickstart_seed{arguments.seed}"
    runs = {kind: (arguments.runs / f"{name}_{kind}").resolve() for kind in KINDS}
    checkpoints = {kind: run / "checkpoints" / "last.ckpt" for kind, run in runs.items()}
    common = [f"seed={arguments.seed}", "resume=null"]
    if arguments.max_steps is not None:
        common.append(f"trainer.max_steps={arguments.max_steps}")

    def train(kind: str, *overrides: str) -> float:
        return call("train.py", f"experiment=quickstart_{kind}", *common, f"run_dir={runs[kind]}", *overrides)

    def evaluate(kind: str, steps: tuple[int, ...]) -> float:
        return call(
            "evaluate.py",
            f"ckpt={checkpoints[kind]}",
            f"sampler.num_steps=[{','.join(map(str, steps))}]",
            f"seed={arguments.seed}",
            "device=cpu",
            f"results={runs[kind] / 'evaluation.json'}",
        )

    seconds = {
        "pretrain": train("flow"),
        "finetune": train("dmf", f"init_from={checkpoints['flow']}"),
        "imf": train("imf"),
        "evaluate": evaluate("flow", TEACHER_STEPS) + evaluate("dmf", MAP_STEPS) + evaluate("imf", MAP_STEPS),
    }
    scores, real_splits = zip(*(read_scores(run / "evaluation.json") for run in runs.values()), strict=True)
    results = dict(zip(("teacher", "dmf", "imf"), scores, strict=True))
    results |= {"real_split": real_splits[0], "seconds": seconds}

    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    draw_samples(checkpoints, arguments.seed, arguments.results / f"{name}_samples.png")
    draw_distances(results, arguments.results / f"{name}_steps.png")
    print_table(results)
    print(f"wrote {arguments.results / name}.json, _samples.png and _steps.png", flush=True)


def call(program: str, *arguments: str) -> float:
    """Run a program of the project, show its command line, and return its wall time in seconds."""
    print(f"$ python {program} {' '.join(arguments)}", flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, ROOT / program, *arguments], cwd=ROOT, check=False).returncode
    if status:
        sys.exit(f"error: {program} ended with exit status {status}")
    return time.perf_counter() - start


def read_scores(path: Path) -> tuple[dict[str, float], float]:
    """Return the distances of an evaluation by number of steps, and that of two halves of the data."""
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
