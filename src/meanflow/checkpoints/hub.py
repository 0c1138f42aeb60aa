"""Models on the Hugging Face hub: ``hf://org/repo`` and ``hf://org/repo/file``."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from meanflow.checkpoints.folder import CONFIG, WEIGHTS
from meanflow.files.remote import HUB, local_file, not_on_hub, split_hub_address

ENDINGS = (".pt", ".pth", ".ckpt", ".zip")


def local_path(path: str | Path) -> Path:
    """Return a local path unchanged, and for an ``hf://`` address the path of a local copy.

    A missing copy is downloaded. A file in the local cache is used without asking the hub for a newer one. An address
    without a file means the exported model of this project at the top of the repository. If there is none, it means the
    only model file of the repository.

    Raises:
        FileNotFoundError: If there is no copy, and the hub does not answer or has no such file. The message names the
            file to fetch.
        ValueError: If the address names no repository, or names no file of a repository with several models.
    """
    text = str(path)
    if isinstance(path, Path) or not text.startswith(HUB):
        return Path(path)
    repo, file = split_hub_address(text)
    names = [file] if file else _choice(text, _files(text, repo))
    copies = [local_file(f"{HUB}{repo}/{name}") for name in names]
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
    """Return the names of the files of a repository, or of its cached files if the hub does not answer."""
    import huggingface_hub

    try:
        return huggingface_hub.list_repo_files(repo)
    except Exception as error:  # types of the HTTP library that huggingface_hub uses; they differ between versions
        try:
            cached = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
        except Exception:
            raise not_on_hub(address, repo, "", error) from error
        return [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]
