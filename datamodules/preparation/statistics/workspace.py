"""The folder in which reference statistics grow."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.preparation.statistics.partial import read_starts
from datamodules.preparation.statistics.plan import StatisticsPlan
from datamodules.preparation.workspace import Workspace
from meanflow.distributed import Ranks


class StatisticsWorkspace(Workspace[StatisticsPlan]):
    """A folder beside the file of statistics: the plan, and one file of ``PartialStatistics`` for each rank.

    A scatter matrix takes tens of MB. A rank therefore replaces one file now and then, and writes no file for a part.

    Args:
        out: File of the statistics.
    """

    def __init__(self, out: Path) -> None:
        super().__init__(out, out.with_name(f"{out.name}.partial"), StatisticsPlan)
        self.lock = self.folder / "workspace.lock"

    def file(self, ranks: Ranks) -> Path:
        """Return the file in which a rank keeps its statistics."""
        return self.folder / f"rank-{ranks.rank}-of-{ranks.world_size}.safetensors"

    def files(self) -> dict[Path, int]:
        """Return the files of all ranks of all runs, in a fixed order, each with the number of ranks of its run."""
        found = (re.fullmatch(r"rank-(\d+)-of-(\d+)\.safetensors", path.name) for path in self.folder.iterdir())
        numbers = sorted((int(match[2]), int(match[1])) for match in found if match)
        return {self.file(Ranks(rank, world_size)): world_size for world_size, rank in numbers}

    def pending(self, plan: StatisticsPlan, ranks: Ranks) -> list[range]:
        """Return the parts that a rank has not read yet.

        The ranks of a run share the parts that runs of other numbers of ranks left: of n ranks, rank r reads every n-th
        of these parts from r on. All ranks of a run compute the same shares, whenever they start: the files of other
        numbers of ranks do not change meanwhile (``run_lock``), and the files of this number of ranks do not enter.
        """
        files = self.files()
        read_by_others = read_starts(path for path, world_size in files.items() if world_size != ranks.world_size)
        shared = [part for part in plan.parts() if part.start not in read_by_others]
        already_read = read_starts(files)
        return [shared[i] for i in ranks.own(len(shared)) if shared[i].start not in already_read]
