"""The images of a source, in a fixed order, with their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from datamodules.images import dataset_json
from datamodules.images.files import HIDDEN, EncodedFiles, FileList, ImageFiles, PixelStore, plain_name
from datamodules.images.formats import SUFFIXES, UnreadableImageError, has_signature

# Kinds of files that are left out and named in a note; a note counts further kinds.
NAMED_KINDS = 5


class ImageNames(NamedTuple):
    """Names of images.

    Attributes:
        names: The names, sorted.
        notes: Lines for a person about files that are left out.
    """

    names: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Listing:
    """Images with their labels.

    Args:
        names: Name of each image in its ``ImageFiles``, in the order of the samples of a store.
        labels: Label of each image, int64 ``(num_images,)``.
        num_classes: Labels lie in ``[0, num_classes)``.
        class_names: One name per class, or empty.
        notes: Lines for a person about files that are left out, and about images without labels.
    """

    names: list[str]
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def list_images(files: ImageFiles) -> Listing:
    """List the images of a source with their labels.

    A store of pixels has labels of its own. In a folder or a zip file, the first of these layouts that is found counts.
    It may stand at the top, or below a single folder that holds everything else:

    1. ``dataset.json`` (EDM2), which names every image and its label. Its labels may be ``null``.
    2. ``train/<class>/...`` (ImageNet). Files beside ``train`` are left out.
    3. ``<class>/...``
    4. Images in one folder without class folders.

    The label of a class folder is its position in alphabetical order. Images without labels are one class. Images are
    listed in the alphabetical order of their names. Hidden files, and files that are no images by their suffix, are
    left out. The first bytes decide about files without a suffix. Notes count the files that are left out.

    Raises:
        ValueError: If there are no images, an image lies outside the class folders or is not in ``dataset.json``, or a
            class folder has no images.
        FileNotFoundError: If ``dataset.json`` names a file that does not exist.
    """
    if isinstance(files, PixelStore):
        store = files.store
        return Listing(
            files.names(), store.labels.numpy(), store.configuration.num_classes, store.configuration.class_names
        )
    assert isinstance(files, EncodedFiles)
    names, images, notes = _visible(files)
    top = _only_folder(names)
    for root in ("", top):
        if root + dataset_json.FILE_NAME in names:
            return _flat(files, root, images, notes)
    if training := _training_root(names, images):
        return _class_folders(files, training, names, images, notes)
    # A single folder is a class, unless all its images lie in subfolders.
    nested = top and all("/" in image.removeprefix(top) for image in images)
    return _class_folders(files, top if nested else "", names, images, notes)


def list_unlabeled(files: EncodedFiles) -> ImageNames:
    """List the images of a source without labels.

    Images may lie in any folders. If there is a folder ``train``, at the top or below a single folder, files beside it
    are left out, as in ``list_images``.

    Raises:
        ValueError: If there are no images.
    """
    names, images, notes = _visible(files)
    root = _training_root(names, images)
    below = [name for name in images if name.startswith(root)]
    return ImageNames(below, notes + _beside(root, images, below))


def _visible(files: EncodedFiles) -> tuple[list[str], list[str], list[str]]:
    """Return the names that are not hidden; then the names of images among them, sorted; then notes."""
    found = files.list_files()
    names = []
    for name in found.names:
        if "/." not in f"/{name}" and not name.startswith("__MACOSX/"):
            names.append(name)
        elif _suffix(name) in SUFFIXES:
            found.leave_out(HIDDEN, name)
    images = sorted(name for name in names if name[-1] != "/" and _is_image(files, name))
    others = set(names).difference(images)
    notes = _notes(found, [n for n in others if n[-1] != "/" and PurePosixPath(n).name != dataset_json.FILE_NAME])
    if not images:
        left_out = f"; {'; '.join(notes)}" if notes else ""
        raise ValueError(f"{files.path}: there are no images in it ({len(names)} other files and folders){left_out}")
    return names, images, notes


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_image(files: EncodedFiles, name: str) -> bool:
    suffix = _suffix(name)
    return suffix in SUFFIXES or (not suffix and has_signature(files.beginning(name)))


def _notes(found: FileList, others: Iterable[str]) -> list[str]:
    """Return a line for each reason to leave files out, and one for files that are no images."""
    notes = [f"left out: {len(names)} {reason} ({min(names) or '.'})" for reason, names in found.left_out.items()]
    kinds = Counter(_suffix(name) or "without a suffix" for name in others)
    if kinds:
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=_by_count)[:NAMED_KINDS])
        more = sum(kinds.values()) - sum(sorted(kinds.values())[-NAMED_KINDS:])
        further = f" and {more} of other kinds" if more else ""
        notes.append(f"left out: {sum(kinds.values())} files that are no images by their names ({shown}{further})")
    return notes


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    kind, count = item
    return -count, kind


def _beside(root: str, images: list[str], below: list[str]) -> list[str]:
    """Return a note about the images that do not lie in the folder of training images."""
    return [f"left out: {beside} images beside {root}"] if (beside := len(images) - len(below)) else []


def _training_root(names: Iterable[str], images: Iterable[str]) -> str:
    """Return ``train/`` or ``<only folder>/train/`` if images lie there, else an empty string."""
    roots = ("train/", f"{_only_folder(names)}train/")
    return next((root for root in roots if any(name.startswith(root) for name in images)), "")


def _only_folder(names: Iterable[str]) -> str:
    """Return the folder that holds everything, with ``/`` at the end; an empty string if there is none."""
    tops = {name.partition("/")[0] + "/" for name in names}
    return tops.pop() if len(tops) == 1 else ""


def _flat(files: EncodedFiles, root: str, images: list[str], notes: list[str]) -> Listing:
    where = f"{files.path}/{root}{dataset_json.FILE_NAME}"
    try:
        given = dataset_json.parse_labels(files.read(root + dataset_json.FILE_NAME), where)
    except UnreadableImageError as error:
        raise ValueError(f"{where}: {error}") from error
    if given is None:
        return _one_class(images, notes, f"{dataset_json.FILE_NAME} has no labels")
    labels = {root + plain_name(name, where): label for name, label in given.items()}
    if missing := labels.keys() - set(images):
        raise FileNotFoundError(f"{where}: {min(missing)} (one of {len(missing)}) does not exist or is no image")
    if extra := set(images) - labels.keys():
        raise ValueError(f"{where}: {min(extra)} (one of {len(extra)}) has no label in it")
    array = np.array([labels[image] for image in images], dtype=np.int64)
    return Listing(images, array, int(array.max()) + 1, notes=tuple(notes))


def _one_class(images: list[str], notes: list[str], reason: str) -> Listing:
    note = f"without labels: {reason}; all {len(images)} images are one class"
    return Listing(images, np.zeros(len(images), dtype=np.int64), 1, notes=(note, *notes))


def _class_folders(files: EncodedFiles, root: str, names: list[str], images: list[str], notes: list[str]) -> Listing:
    below = [name for name in images if name.startswith(root)]
    notes = notes + _beside(root, images, below)
    stray = [name for name in below if "/" not in name.removeprefix(root)]
    if len(stray) == len(below):
        return _one_class(below, notes, f"there are neither class folders nor a {dataset_json.FILE_NAME}")
    if stray:
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
    labels = np.array([number[name] for name in class_of], dtype=np.int64)
    return Listing(below, labels, len(folders), tuple(folders), tuple(notes))
