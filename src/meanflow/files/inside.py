"""Paths that a file names. A file may name other files of its own folder only."""

from __future__ import annotations

import re
from pathlib import Path

DRIVE = re.compile(r"[A-Za-z]:")


def require_relative(name: object, where: str | Path) -> str:
    """Return a name that a file holds, if the name leads into the folder that the name is relative to.

    Args:
        name: The name.
        where: File or folder in messages.

    Raises:
        ValueError: If the name is empty, absolute, holds ``..`` or a null character, or is no text.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{where}: a file name must be a text that is not empty, got {name!r}")
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or DRIVE.fullmatch(parts[0]):
        raise ValueError(f"{where}: names must be relative to it, got the absolute name {name!r}")
    if ".." in parts:
        raise ValueError(f"{where}: names must lie inside of it, got {name!r}")
    return name


def inside(folder: str | Path, name: object, follow_links: bool = False) -> Path:
    """Return the path of a file that another file names.

    The path need not exist. A path that exists is a regular file or a folder.

    Args:
        folder: Folder that the name is relative to.
        name: The name, as it was read from a file.
        follow_links: Whether links in the folder may lead out of it. This suits folders of images, whose classes often
            lie on several disks.

    Raises:
        ValueError: If the name leads out of the folder, or names a pipe or a device.
        OSError: If the folder cannot be read.
    """
    folder = Path(folder)
    path = folder / require_relative(name, folder)
    try:
        resolved = path.resolve()
    except RuntimeError as error:  # links in a circle
        raise ValueError(f"{folder}: {name!r} is a link that leads back to itself") from error
    if not follow_links and not resolved.is_relative_to(folder.resolve()):
        raise ValueError(f"{folder}: {name!r} is a link that leads out of it; replace the link by a copy of its file")
    if resolved.exists() and not (resolved.is_file() or resolved.is_dir()):
        raise ValueError(f"{folder}: {name!r} is a pipe or a device, not a file")
    return path
