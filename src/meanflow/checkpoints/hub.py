"""Models on the Hugging Face hub: ``hf://org/repo`` and ``hf://org/repo/file``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from meanflow.checkpoints.folder import CONFIG, WEIGHTS

SCHEME = "hf://"
ENDINGS = (".pt", ".pth", ".ckpt", ".zip")


def local_path(path: str | Path) -> Path:
    """Return a path as it is, and the local copy of what an ``hf://`` address names, downloaded if need be.

    A file in the local cache is used without asking the hub for a newer one. An address without a file means
    an exported folder of ours at the top of the repository, or else its only model file.

    Raises:
        FileNotFoundError: If there is no copy and the hub does not answer or has no such file; says what to fetch.
        ValueError: If the address names no repository, or a repository with several models.
    """
    text = str(path)
    if isinstance(path, Path) or not text.startswith(SCHEME):
        return Path(path)
    parts = [part for part in text.removeprefix(SCHEME).split("/") if part]
    if len(parts) < 2:
        raise ValueError(f"{text} must be hf://org/repo or hf://org/repo/file")
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    if file:
        return _download(text, repo, file)
    copies = [_download(text, repo, name) for name in _choice(text, _files(text, repo))]
    return copies[0] if len(copies) == 1 else copies[0].parent


def _choice(address: str, files: list[str]) -> list[str]:
    if {CONFIG, WEIGHTS} <= set(files):
        return [CONFIG, WEIGHTS]
    models = sorted(name for name in files if PurePosixPath(name).suffix in ENDINGS)
    if len(models) == 1:
        return models
    found = f"it has {models}: name one, as {address.rstrip('/')}/{models[0]}" if models else f"it has {sorted(files)}"
    raise ValueError(f"{address} does not say which model is meant; {found}")


def _files(address: str, repo: str) -> list[str]:
    """Names of the files of a repository; of the cached ones if the hub does not answer."""
    hub = _hub()
    try:
        return hub.list_repo_files(repo)
    except Exception as error:  # of the HTTP library underneath, which changes
        try:
            cached = Path(hub.snapshot_download(repo, local_files_only=True))
        except Exception:
            raise _unreachable(address, repo, "", error) from error
        return [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]


def _download(address: str, repo: str, file: str) -> Path:
    hub = _hub()
    try:
        return Path(hub.hf_hub_download(repo, file, local_files_only=True))
    except Exception:
        pass  # not in the cache
    try:
        return Path(hub.hf_hub_download(repo, file))
    except Exception as error:
        raise _unreachable(address, repo, file, error) from error


def _unreachable(address: str, repo: str, file: str, error: Exception) -> FileNotFoundError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
    return FileNotFoundError(
        f"{address} is not in the local cache and could not be downloaded ({reason}); on a machine with a network run "
        f"`hf download {' '.join(filter(None, [repo, file]))} --local-dir DIR`, copy DIR here and give the path of the "
        "file in it"
    )


def _hub() -> Any:
    import huggingface_hub

    return huggingface_hub
