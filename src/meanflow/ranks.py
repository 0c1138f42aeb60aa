"""The processes that share the work of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work.

    Args:
        rank: Its number.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    def own(self, total: int) -> range:
        """Return the numbers of this rank's samples of ``total``."""
        return range(self.rank, total, self.world_size)

    def console(self) -> Console:
        """Return where the first rank prints, on wide lines if that is no terminal; the others are silent."""
        console = Console(quiet=self.rank > 0)
        return console if console.is_terminal else Console(quiet=self.rank > 0, width=160)
