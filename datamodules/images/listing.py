"""The images of a source, in a fixed order, with their labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from datamodules.images import dataset_json
from datamodules.images.files import EncodedFiles, ImageFiles, PixelStore

# Other files are ignored: archives of images also hold lists and notes.
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Listing:
    """Images with their labels.

    Args:
        names: Name of each image in its ``ImageFiles``, in the order of the samples of a store.
        labels: Label of each image, int64 ``(num_images,)``.
        num_classes: Labels lie in ``[0, num_classes)``.
        class_names: One name per class, or empty.
    """

    names: list[str]
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] = ()


def list_images(files: ImageFiles) -> Listing:
    """List the images of a source with their labels.

    A store of pixels has labels of its own. In a folder or a zip file, the first of these layouts that is found counts.
    It may stand at the top, or below a single folder that holds everything else:

    1. ``dataset.json`` (EDM2), which names every image and its label.
    2. ``train/<class>/...`` (ImageNet). Files beside ``train`` are ignored.
    3. ``<class>/...``

    The label of a class folder is its position in alphabetical order. Images are listed in the alphabetical order of
    their names. Hidden files, and files without the suffix of an image, are ignored.

    Raises:
        ValueError: If there are no images, an image lies outside the class folders or is not in ``dataset.json``, or a
            class folder has no images.
        FileNotFoundError: If ``dataset.json`` names a file that does not exist.
    """
    if isinstance(files, PixelStore):
        store = files.store
        return Listing(
            list(files.names()), store.labels.numpy(), store.configuration.num_classes, store.configuration.class_names
        )
    assert isinstance(files, EncodedFiles)
    names, images = _visible(files)
    top = _only_folder(names)
    for root in ("", top):
        if root + dataset_json.FILE_NAME in names:
            return _flat(files, root, images)
    if training := _training_root(names, images):
        return _class_folders(files, training, names, images)
    # A single folder is a class, unless all its images lie in subfolders.
    nested = top and all("/" in image.removeprefix(top) for image in images)
    return _class_folders(files, top if nested else "", names, images)


def list_unlabeled(files: EncodedFiles) -> list[str]:
    """List the images of a source without labels: return their names in alphabetical order.

    Images may lie in any folders. If there is a folder ``train``, at the top or below a single folder, files beside it
    are ignored, as in ``list_images``.

    Raises:
        ValueError: If there are no images.
    """
    names, images = _visible(files)
    root = _training_root(names, images)
    return [name for name in images if name.startswith(root)]


def _visible(files: EncodedFiles) -> tuple[list[str], list[str]]:
    """Return the names that are not hidden; then the names of images among them, sorted."""
    names = [name for name in files.names() if "/." not in f"/{name}" and not name.startswith("__MACOSX/")]
    images = sorted(name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES and name[-1] != "/")
    if not images:
        raise ValueError(f"{files.path}: there are no images in it ({len(names)} other files and folders)")
    return names, images


def _training_root(names: Iterable[str], images: Iterable[str]) -> str:
    """Return ``train/`` or ``<only folder>/train/`` if images lie there, else an empty string."""
    roots = ("train/", f"{_only_folder(names)}train/")
    return next((root for root in roots if any(name.startswith(root) for name in images)), "")


def _only_folder(names: Iterable[str]) -> str:
    """Return the folder that holds everything, with ``/`` at the end; an empty string if there is none."""
    tops = {name.partition("/")[0] + "/" for name in names}
    return tops.pop() if len(tops) == 1 else ""


def _flat(files: EncodedFiles, root: str, images: list[str]) -> Listing:
    where = f"{files.path}/{root}{dataset_json.FILE_NAME}"
    labels = dataset_json.parse_labels(files.read(root + dataset_json.FILE_NAME), where)
    labels = {root + name: label for name, label in labels.items()}
    if missing := labels.keys() - set(images):
        raise FileNotFoundError(f"{where}: {min(missing)} (one of {len(missing)}) does not exist or is no image")
    if extra := set(images) - labels.keys():
        raise ValueError(f"{where}: {min(extra)} (one of {len(extra)}) has no label in it")
    array = np.array([labels[image] for image in images], dtype=np.int64)
    return Listing(images, array, int(array.max()) + 1)


def _class_folders(files: EncodedFiles, root: str, names: list[str], images: list[str]) -> Listing:
    below = [name for name in images if name.startswith(root)]
    if stray := [name for name in below if "/" not in name.removeprefix(root)]:
        raise ValueError(
            f"{files.path}: {stray[0]} (one of {len(stray)}) lies in no class folder, and there is no "
            f"{dataset_json.FILE_NAME} with labels"
        )
    inside = [name.removeprefix(root) for name in names if name.startswith(root)]
    folders = sorted({name.partition("/")[0] for name in inside if "/" in name})
    class_of = [name.removeprefix(root).partition("/")[0] for name in below]
    if empty := sorted(set(folders) - set(class_of)):
        raise ValueError(
            f"{files.path}: the class folder {root}{empty[0]} (one of {len(empty)}) holds no images; remove it"
        )
    number = {name: i for i, name in enumerate(folders)}
    return Listing(below, np.array([number[name] for name in class_of], dtype=np.int64), len(folders), tuple(folders))
