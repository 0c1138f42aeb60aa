"""Progress of a long job over images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Seconds between two printed lines.
INTERVAL = 30.0


class ImageProgress:
    """Counts images. Shows their number, images per second and the time left.

    On a terminal, this is a bar. Elsewhere, a line is printed every half minute, so that a log file stays short.

    Args:
        label: Name of the job.
        total: Number of images.
        done: Number of images of earlier runs. They do not count for the speed.
        console: Where the progress is shown.
    """

    def __init__(self, label: str, total: int, done: int = 0, console: Console | None = None) -> None:
        self.label = label
        self.total = total
        self.done = self._first = done
        self.console = console or Console()
        self._start = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn(label),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.console.quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task(label, total=total, completed=done, rate="")

    @contextmanager
    def shown(self) -> Iterator[ImageProgress]:
        """Show the progress while the block runs; the last line states the speed."""
        with self._bar:
            yield self
        if not self.console.is_terminal and self.done > self._first:
            self._print()

    def advance(self, num_images: int) -> None:
        """Count images."""
        self.done += num_images
        self._bar.update(self._task, completed=self.done, rate=f"{self.images_per_second:.0f} images/s")
        if not self.console.is_terminal and time.monotonic() - self._last_line > INTERVAL:
            self._print()

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    @property
    def images_per_second(self) -> float:
        """Speed of this run, without images of earlier runs."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def _print(self) -> None:
        self._last_line = time.monotonic()
        left = (self.total - self.done) / max(self.images_per_second, 1e-9)
        self.note(
            f"{self.label}: {self.done}/{self.total} images, {self.images_per_second:.1f} images/s, {left:.0f} s left"
        )
