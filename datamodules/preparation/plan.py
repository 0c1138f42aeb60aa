"""The settings and the images of a job: its plan, which every run of the job reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from datamodules.store.file_entry import FileEntry
from datamodules.store.source_paths import SourcePaths, write_paths
from meanflow.files.atomic import atomic_file

FILE_NAME = "plan.json"


@dataclass(frozen=True)
class Settings:
    """Everything that the result of a job depends on. A run continues a job only under the settings of the job.

    Attributes:
        foreign: How a message calls a result that records no settings.
    """

    foreign: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON knows them."""
        return json.loads(json.dumps(asdict(self)))

    def require_equal(self, found: Mapping[str, Any] | None, where: Path) -> None:
        """Check that a run with these settings may continue, or reuse, the job at ``where``.

        Args:
            found: ``to_dict`` of the settings of that job; ``None`` if the job recorded no settings.
            where: Workspace or result of the job.

        Raises:
            FileExistsError: If a setting differs; the message names the first one.
        """
        for key, value in self.to_dict().items():
            if found is None or found.get(key) != value:
                held = self.foreign if found is None else f"{key}={found.get(key)!r}"
                raise FileExistsError(
                    f"{where}: holds {held}, asked for is {key}={value!r}; remove it or write elsewhere"
                )


class Plan:
    """The images of a job, in a fixed order, and its settings.

    Args:
        folder: Folder into which ``write_plan`` wrote the plan.

    Attributes:
        content: Content of ``plan.json``.
        settings: ``Settings.to_dict()``.
        names: Name of each image. The position of a name is the number of the image.
        names_sha256: Checksum of the names.
        notes: Lines for a person about the listing of the images, as in ``Listing``.

    Raises:
        FileNotFoundError: If the folder has no plan.
    """

    def __init__(self, folder: Path) -> None:
        self.content: dict[str, Any] = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        self.settings: dict[str, Any] = self.content["settings"]
        text, ends = (FileEntry.from_dict(key, self.content[key]) for key in ("names", "name_ends"))
        self.names = SourcePaths(folder, text, ends)
        self.names_sha256 = text.sha256
        self.notes: list[str] = self.content.get("notes", [])  # plans of version 0.1.0 have none

    def __len__(self) -> int:
        return len(self.names)


def write_plan(folder: Path, settings: Settings, names: Iterable[str], **further: object) -> None:
    """Write a plan. ``plan.json`` is written last, and whole or not at all.

    Args:
        folder: Workspace of the job.
        settings: Settings of the job.
        names: Name of each image.
        further: Further keys of ``plan.json`` with their values.

    Raises:
        OSError: If a file cannot be written.
    """
    text, ends = write_paths(folder, names)
    content = {"settings": settings.to_dict(), "names": asdict(text), "name_ends": asdict(ends), **further}
    with atomic_file(folder / FILE_NAME) as file:
        file.write(json.dumps(content).encode())
