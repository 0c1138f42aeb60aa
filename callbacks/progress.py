"""A progress bar over the whole run."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from callbacks.every_n_steps import EveryNSteps
from callbacks.score import PeriodicScore
from callbacks.trainer_parts import find_callback

# Steps between two printed lines, at most.
MAX_INTERVAL = 1000


class StepProgressBar(EveryNSteps, ProgressBar):
    """One bar for all optimizer steps, with the loss, the speed, the score and the time left.

    Lightning's own bars start again with every epoch. An epoch of a small data set takes less than a second. If the
    output is not a terminal, the callback prints lines instead of the bar.

    Args:
        num_lines: Number of lines of a run. If this means more than 1000 steps between two lines, the callback prints a
            line every 1000 steps.
    """

    def __init__(self, num_lines: int = 10) -> None:
        super().__init__(every_n_train_steps=1)
        self.num_lines = max(1, num_lines)
        self._enabled = True
        self._console: Console | None = None
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def disable(self) -> None:
        """Show nothing. Lightning calls this method on all ranks except the first rank."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, at the step that the run resumes from."""
        super().on_train_start(trainer, pl_module)
        if not self._enabled:
            return
        self._console = Console()
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=self._console,
                refresh_per_second=4,
            )
            self._task = self._progress.add_task(
                "training", total=self._total(trainer), completed=trainer.global_step, metrics=""
            )
            self._progress.start()

    def on_interval(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Advance the bar, or print a line."""
        if not self._enabled:
            return
        step, total = trainer.global_step, self._total(trainer)
        if self._progress is not None:
            if step % 10 == 0 or step == total:  # reading the metrics waits for the device
                self._progress.update(self._task, completed=step, metrics=self._metrics(trainer))
        elif self._console is not None and (step % self._interval(total) == 0 or step == total):
            self._console.print(f"step {step}/{total}  {self._metrics(trainer)}", highlight=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar, so that it does not mix with the error message."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _total(self, trainer: Trainer) -> int | None:
        if trainer.max_steps >= 0:
            return trainer.max_steps
        total = trainer.estimated_stepping_batches
        return int(total) if total != float("inf") else None

    def _interval(self, total: int | None) -> int:
        return MAX_INTERVAL if total is None else max(1, min(total // self.num_lines, MAX_INTERVAL))

    def _metrics(self, trainer: Trainer) -> str:
        names = ["train/loss", "throughput/images_per_second"]
        if (score := find_callback(trainer, PeriodicScore)) is not None:
            names.append(f"score/{score.headline}")
        values = {
            name.split("/")[1]: float(trainer.callback_metrics[name])
            for name in names
            if name in trainer.callback_metrics
        }
        return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
