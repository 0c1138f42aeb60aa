"""What a person sees of a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datamodules.preparation.bad_images import BadImage
from meanflow.display.progress import ImageProgress
from meanflow.distributed import Ranks


def start_progress(job: str, ranks: Ranks, total: int, done: int) -> ImageProgress:
    """Return the progress of this rank, and print where an earlier run stopped.

    Args:
        job: What is done to the images.
        ranks: This process.
        total: Number of images that this rank is responsible for.
        done: Number of images that are finished already.
    """
    label = job if ranks.world_size == 1 else f"{job}, rank {ranks.rank} of {ranks.world_size}"
    progress = ImageProgress(label, total, done)
    if done:
        progress.note(f"{label}: going on after {done} of {total} images")
    return progress


def note_listing(progress: ImageProgress, ranks: Ranks, notes: Iterable[str]) -> None:
    """Print on the first rank which files were left out, and whether the images have labels."""
    if ranks.rank == 0:
        for note in notes:
            progress.note(note)


def note_bad_images(progress: ImageProgress, bad: Iterable[BadImage], names: Sequence[str]) -> None:
    """Print name and reason of each bad image."""
    for number, reason in bad:
        progress.note(f"bad image {names[number]}: {reason}")
