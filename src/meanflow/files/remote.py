"""Local copies of files that a path or an address names. The sha256 of a copy is checked."""

from __future__ import annotations

import hashlib
import os
import re
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

HUB = "hf://"
WEB = "https://"
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def local_file(address: str | Path, sha256: str | None = None) -> Path:
    """Return the local copy of a file. A missing copy is downloaded.

    Copies are kept where the libraries of the field keep them: in the cache of the Hugging Face hub, and in
    ``torch.hub.get_dir()/checkpoints`` for the web. A copy is used without asking for a newer one.

    Args:
        address: A path, ``hf://org/repo/file`` or ``https://...``.
        sha256: The sha256 of the file, or its first hexadecimal digits; ``None`` if unknown. The name of a file on the
            web may contain them too, as in ``weights-6726825d.pth``.

    Raises:
        FileNotFoundError: If there is no copy and no download. The message says where to get the file and where to put
            it.
        ValueError: If the address has another form, or the sha256 is wrong.
    """
    text = str(address)
    if isinstance(address, Path) or "://" not in text:
        path = Path(address)
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path}")
        return _checked(path, sha256)
    if text.startswith(HUB):
        repo, file = split_hub_address(text)
        if not file:
            raise ValueError(f"{text} names no file: it must be hf://org/repo/file")
        return _checked(_from_hub(text, repo, file), sha256)
    if text.startswith(WEB):
        return _from_web(text, sha256)
    raise ValueError(f"a file must be a path, hf://org/repo/file or https://..., got {text}")


def sha256_of(path: str | Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_hub_address(address: str) -> tuple[str, str]:
    """Return repository and file of ``hf://org/repo/file``; the file is empty in ``hf://org/repo``.

    Raises:
        ValueError: If the address names no repository.
    """
    parts = [part for part in address.removeprefix(HUB).split("/") if part]
    if len(parts) < 2:
        raise ValueError(f"{address} must be hf://org/repo or hf://org/repo/file")
    return "/".join(parts[:2]), "/".join(parts[2:])


def not_on_hub(address: str, repo: str, file: str, error: Exception) -> FileNotFoundError:
    """Return the error that names the file on the hub and the command that fetches it."""
    return FileNotFoundError(
        f"{address} is not in the local cache and could not be downloaded ({_reason(error)}); on a machine with a "
        f"network run `hf download {' '.join(filter(None, [repo, file]))} --local-dir DIR`, copy DIR here and give the "
        "path of the file in it"
    )


def _from_hub(address: str, repo: str, file: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, local_files_only=True))
    except Exception:
        pass  # not in the cache
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file))
    except Exception as error:  # types of the HTTP library that huggingface_hub uses; they differ between versions
        raise not_on_hub(address, repo, file, error) from error


def _from_web(url: str, sha256: str | None) -> Path:
    name = PurePosixPath(urlsplit(url).path).name
    if not name:
        raise ValueError(f"{url} names no file")
    found = HASH_IN_NAME.search(name)
    sha256 = sha256 or (found.group(1) if found else None)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return _checked(path, sha256)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, os.fspath(path), hash_prefix=sha256)
    except RuntimeError as error:
        raise ValueError(f"the file that {url} sends is damaged or another file: {_reason(error)}") from error
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f"{url} is not in the local cache and could not be downloaded ({_reason(error)}); on a machine with a "
            f"network fetch it, and put it here as {path} or give the path of the copy"
        ) from error
    return path


def _checked(path: Path, sha256: str | None) -> Path:
    if sha256:
        found = sha256_of(path)
        if not found.startswith(sha256.lower()):
            raise ValueError(f"{path} is damaged or another file (delete it): its sha256 is {found}, not {sha256}")
    return path


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
