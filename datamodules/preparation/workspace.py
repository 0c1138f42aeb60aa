"""The folder in which the result of a job grows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from datamodules.preparation.plan import FILE_NAME, Plan, Settings

PlanT = TypeVar("PlanT", bound=Plan)


class Workspace(Generic[PlanT]):
    """A folder beside the result of a job. It holds the plan and all finished work.

    Every file in the folder is complete. Any number of processes can therefore stop at any moment, and any other number
    of processes can go on.

    Args:
        out: The result, a folder or a file.
        folder: The workspace.
        plan_type: Class of the plan.
    """

    def __init__(self, out: Path, folder: Path, plan_type: type[PlanT]) -> None:
        self.out = out
        self.folder = folder
        self.plan_type = plan_type

    def make(self) -> None:
        """Make the folder unless it exists."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def plan(self, settings: Settings, write: Callable[[], PlanT]) -> PlanT:
        """Return the plan of an earlier run, or write one. One process at a time may call this.

        Args:
            settings: Settings of this run.
            write: Lists the images, which can take minutes, and writes the plan. If it fails, the workspace is removed.

        Raises:
            FileExistsError: If the earlier run had other settings.
        """
        if (self.folder / FILE_NAME).is_file():
            plan = self.plan_type(self.folder)
            settings.require_equal(plan.settings, self.folder)
            return plan
        try:
            return write()
        except BaseException:
            self.remove()
            raise
