"""The folder in which statistics grow."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from datamodules.preparation.latents.plan import FILE_NAME
from datamodules.preparation.statistics.partial import read_starts
from datamodules.preparation.statistics.plan import StatisticsPlan, StatisticsSettings
from meanflow.distributed import Ranks


class StatisticsWorkspace:
    """A folder beside the file to be made: the plan, and one file of ``PartialStatistics`` for each rank.

    A scatter matrix takes tens of MB, so a rank has one file that it replaces now and then, and none for a part. Every
    file is complete, so that any number of processes can stop at any moment and any other number go on.

    Args:
        out: File to be made.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.lock = self.folder / "workspace.lock"

    def make(self) -> None:
        """Make the folder, if it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def find_plan(self, settings: StatisticsSettings) -> StatisticsPlan | None:
        """Return the plan of an earlier run, if there is one.

        Raises:
            FileExistsError: If it was made with other settings.
        """
        if not (self.folder / FILE_NAME).is_file():
            return None
        plan = StatisticsPlan(self.folder)
        settings.require_equal(plan.settings, str(self.folder))
        return plan

    def file(self, rank: Ranks) -> Path:
        """Return where a rank keeps its statistics."""
        return self.folder / f"rank-{rank.rank}-of-{rank.world_size}.safetensors"

    def files(self) -> dict[Path, int]:
        """Return the files of all ranks that were ever at work, in a fixed order, with their numbers of ranks."""
        found = (re.fullmatch(r"rank-(\d+)-of-(\d+)\.safetensors", path.name) for path in self.folder.iterdir())
        numbers = sorted((int(match[2]), int(match[1])) for match in found if match)
        return {self.file(Ranks(rank, world_size)): world_size for world_size, rank in numbers}

    def pending(self, plan: StatisticsPlan, rank: Ranks) -> list[range]:
        """Return the parts that a rank has still to read.

        What earlier runs of other numbers of ranks left is dealt out in turns. Ranks that are at work together see the
        same deal, whenever they start: no other number of ranks is at work meanwhile (``run_lock``), and what one of
        them adds to its file is what it was dealt.
        """
        files = self.files()
        others = read_starts(path for path, world_size in files.items() if world_size != rank.world_size)
        dealt = [part for part in plan.parts() if part.start not in others][rank.rank :: rank.world_size]
        done = read_starts(files)
        return [part for part in dealt if part.start not in done]
