"""The entry of a file in the manifest of a latent store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meanflow.files.inside import inside
from meanflow.files.remote import sha256_of


@dataclass(frozen=True)
class FileEntry:
    """Name, number of samples and checksum of a file.

    Args:
        file: Name inside the folder of the store.
        num_samples: Number of samples in the file.
        sha256: Checksum of the bytes, in hexadecimal digits.

    Raises:
        ValueError: If a value is not allowed.
    """

    file: str
    num_samples: int
    sha256: str

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or self.file in ("", ".", "..") or Path(self.file).name != self.file:
            raise ValueError(f"file must be a name inside the store, got {self.file!r}")
        if type(self.num_samples) is not int or not 1 <= self.num_samples < 2**63:
            raise ValueError(f"num_samples of {self.file} must be a positive integer, got {self.num_samples!r}")
        if not isinstance(self.sha256, str) or len(self.sha256) != 64:
            raise ValueError(f"sha256 of {self.file} must be 64 hexadecimal digits, got {self.sha256!r}")

    @classmethod
    def of(cls, path: Path, num_samples: int) -> FileEntry:
        """Return the entry of an existing file."""
        return cls(path.name, num_samples, sha256_of(path))

    @classmethod
    def from_dict(cls, key: str, config: object) -> FileEntry:
        """Return the entry that a manifest holds under ``key``.

        Raises:
            ValueError: If ``config`` is no dictionary with the right keys, or a value is not allowed.
        """
        if not isinstance(config, dict) or set(config) != {"file", "num_samples", "sha256"}:
            raise ValueError(f"{key} must have the keys file, num_samples and sha256, got {config!r}")
        return cls(**config)

    def path(self, folder: Path) -> Path:
        """Return the path of the file.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is a link that leads out of the folder, a pipe or a device.
        """
        path = inside(folder, self.file)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the manifest lists this file, and it does not exist")
        return path

    def verify(self, folder: Path) -> None:
        """Read the file and compare its checksum.

        Raises:
            ValueError: If the checksum differs.
        """
        if (found := sha256_of(self.path(folder))) != self.sha256:
            raise ValueError(f"{folder / self.file}: its sha256 is {found}, the manifest has {self.sha256}")
