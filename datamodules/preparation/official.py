"""Data sets of the official EDM2, DMF and iMF code, and their conversion to latent stores.

All of them hold one file for each image, with mean and standard deviation of the sd-vae-ft-mse posterior: raw (not
scaled), float32, stacked along the channels. ``DMFLatents`` reads ``vae-sd/*/img-mean-std-*.npy`` with labels in
``dataset.json``, in a folder or in a zip file; ``IMFLatents`` reads ``.pt`` files. Reading executes nothing.
``convert_to_store`` writes a data set as a latent store, which is read much faster.
"""

from __future__ import annotations

import io
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.images.crop import convert_mode
from datamodules.images.dataset_json import FILE_NAME, parse_labels
from datamodules.images.files import EncodedFiles, FolderFiles, ZipFiles, plain_name
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs.normalization import IMF, SCALE_0_18215, Normalization
from meanflow.files.npy import read_npy
from meanflow.files.torch_file import read_torch_file

CODEC = {"name": "autoencoder_kl", "path": "stabilityai/sd-vae-ft-mse"}
PIXELS_PER_LATENT = 8


class OfficialLatents(ABC):
    """Samples of an official data set, in the order of their file names.

    Attributes:
        path: Folder of the latents.
        files: Name of each file below ``path``.
        normalization: Normalization under which the networks of the official code see the latents.
        sources: Path of each source image below ``image_root``; empty if the data set has no images.
        image_root: Folder of the source images, or ``None``.
        has_labels: Whether the data set has labels. Without labels all samples are of one class.
    """

    normalization: Normalization
    path: Path
    files: list[str]
    sources: Sequence[str] = ()
    image_root: Path | None = None
    has_labels: bool = True

    def __len__(self) -> int:
        return len(self.files)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return mean and standard deviation, float32 ``(2 C, h, w)``, and the label of a sample.

        Raises:
            ValueError: If the file is damaged or holds something else; the message names the file.
        """

    def _checked(self, moments: Tensor, file: Path) -> Tensor:
        if moments.ndim == 4 and moments.shape[0] == 1:  # older DMF files
            moments = moments[0]
        if moments.ndim != 3 or moments.shape[0] % 2 or moments.dtype != torch.float32:
            raise ValueError(f"{file} must hold float32 (2 C, h, w), got {moments.dtype} {tuple(moments.shape)}")
        if moments.layout != torch.strided or moments.untyped_storage().nbytes() < moments.numel() * 4:
            raise ValueError(f"{file} must hold float32 {tuple(moments.shape)} in full")
        if not moments.isfinite().all():
            raise ValueError(f"{file}: the latent is not finite")
        if (std := moments[moments.shape[0] // 2 :]).numel() and std.min() < 0:
            raise ValueError(f"{file}: standard deviations must not be negative, got {std.min():g}")
        return moments


class DMFLatents(OfficialLatents):
    """Data set of the EDM2 or DMF code, as ``dataset_tools.py encode`` of that code writes it.

    Args:
        path: The folder that holds ``vae-sd`` and ``images``, or ``vae-sd`` itself, or a zip file of ``vae-sd`` or of
            its content.

    Raises:
        FileNotFoundError: If ``dataset.json`` is missing, or lists other files than the data set holds.
        ValueError: If ``dataset.json`` is damaged, or the data set has no ``.npy`` files.
    """

    normalization = SCALE_0_18215

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self._source: EncodedFiles
        if path.is_file():
            self.path, self._source = path, ZipFiles(path)
        else:
            self.path = path / "vae-sd" if (path / "vae-sd").is_dir() else path
            self._source = FolderFiles(self.path)
        names = self._source.list_files().names
        found = [name for name in (FILE_NAME, f"vae-sd/{FILE_NAME}") if name in names]
        if not found:
            raise FileNotFoundError(f"{self.path} is no data set of the DMF code: there is no {FILE_NAME}")
        where, prefix = f"{self.path}/{found[0]}", found[0].removesuffix(FILE_NAME)
        self.files = sorted(name for name in names if name.startswith(prefix) and name.endswith(".npy"))
        if not self.files:
            raise ValueError(f"{self.path}: there are no .npy files of latents in it; task=latents encodes images")
        labels = parse_labels(self._source.read(found[0]), where)
        self.has_labels = labels is not None
        if labels is None:
            labels = dict.fromkeys(self.files, 0)
        else:
            labels = {prefix + plain_name(name, where): label for name, label in labels.items()}
        missing = sorted(labels.keys() - set(self.files)) or sorted(set(self.files) - labels.keys())
        if missing:
            raise FileNotFoundError(
                f"{self.path}: {missing[0]} (one of {len(missing)}) is not both on disk and in {FILE_NAME}"
            )
        self._labels = [labels[file] for file in self.files]
        images = self.path.parent / "images"
        if self.path.is_dir() and images.is_dir():
            self.image_root = images
            # Image and latent of a sample have the same position in the two sorted lists.
            self.sources = sorted(name for name in FolderFiles(images).list_files().names if name.endswith(".png"))
            if len(self.sources) != len(self.files):
                raise ValueError(f"{images} has {len(self.sources)} images for {len(self.files)} latents")

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.path / self.files[index]
        try:
            content = self._source.read(self.files[index])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        array = read_npy(io.BytesIO(content), len(content), file)
        if array.dtype != np.float32:
            raise ValueError(f"{file} must hold float32 (2 C, h, w), got {array.dtype} {array.shape}")
        return self._checked(torch.from_numpy(array), file), self._labels[index]

    def image(self, index: int) -> Tensor:
        """Return the source image of a sample, uint8 ``(3, H, W)``.

        Raises:
            FileNotFoundError: If the data set has no images.
        """
        if self.image_root is None:
            raise FileNotFoundError(f"{self.path.parent} has no folder images")
        images = FolderFiles(self.image_root)
        return images.decode(
            self.sources[index], lambda image: torch.from_numpy(np.array(convert_mode(image))).permute(2, 0, 1)
        )


class IMFLatents(OfficialLatents):
    """Data set of the iMF code: for each image, a ``.pt`` file of ``{image: (8, h, w), label}``.

    Args:
        path: The folder that holds ``train``, or ``train`` itself.

    Raises:
        FileNotFoundError: If there are no ``.pt`` files.
    """

    normalization = IMF

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / "train" if (path / "train").is_dir() else path
        self.files = sorted(p.name for p in self.path.glob("*.pt"))
        if not self.files:
            raise FileNotFoundError(f"{self.path}: no .pt files")

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.path / self.files[index]
        content = read_torch_file(file)
        if not isinstance(content, dict) or not all(isinstance(content.get(key), Tensor) for key in ("image", "label")):
            raise ValueError(f"{file} must hold the tensors image and label")
        return self._checked(content["image"], file).contiguous(), _whole(content["label"], file)


def _whole(label: Tensor, file: Path) -> int:
    """Return a label as an integer, if it is one."""
    value = label.item() if label.numel() == 1 else None
    if value is None or isinstance(value, bool | complex) or not math.isfinite(value) or int(value) != value:
        raise ValueError(f"{file}: the label must be an integer, got {label.tolist() if label.numel() < 5 else label}")
    return int(value)


def open_official(path: str | Path) -> OfficialLatents:
    """Open a data set of the EDM2 or DMF code, or of the iMF code.

    Raises:
        FileNotFoundError: If ``path`` is neither.
        ValueError: If it is damaged.
    """
    path = Path(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return DMFLatents(path)
    if (path / "dataset.json").is_file() or (path / "vae-sd" / "dataset.json").is_file():
        return DMFLatents(path)
    if path.is_dir() and any(next(folder.glob("*.pt"), None) for folder in (path, path / "train")):
        return IMFLatents(path)
    raise FileNotFoundError(
        f"{path} is no official data set: neither a dataset.json (EDM2, DMF) nor .pt files (iMF) in it"
    )


def convert_to_store(
    source: str | Path, out: str | Path, num_classes: int = 1000, dtype: str = "float16", batch_size: int = 256
) -> str:
    """Write an official data set as a latent store.

    Args:
        source: Folder or zip file of the data set.
        out: Folder of the new store.
        num_classes: Number of classes. Labels must be smaller. Data without labels are one class.
        dtype: ``float16``, or ``float32`` to keep the numbers of the files exactly.
        batch_size: Samples that are read at once.

    Returns:
        A sentence that describes the store.

    Raises:
        FileExistsError: If ``out`` exists.
        FileNotFoundError: If ``source`` is no official data set.
        ValueError: If a file is damaged, or a label is no class.
    """
    latents = open_official(source)
    channels, height, width = latents[0][0].shape
    notes = []
    if not latents.has_labels:
        num_classes = 1
        notes.append(f"without labels: {FILE_NAME} has no labels; all {len(latents)} samples are one class")
    with LatentStoreWriter(
        out,
        kind="moments",
        codec=CODEC,
        normalization=latents.normalization,
        resolution=height * PIXELS_PER_LATENT,
        latent_shape=(channels // 2, height, width),
        num_classes=num_classes,
        dtype=dtype,
        notes=notes,
        image_root=None if latents.image_root is None else str(latents.image_root.resolve()),
    ) as writer:
        for start in range(0, len(latents), batch_size):
            indices = range(start, min(start + batch_size, len(latents)))
            samples = [latents[i] for i in indices]
            for i, (moments, _) in zip(indices, samples, strict=True):
                if moments.shape[1:] != (height, width):
                    raise ValueError(f"{latents.path / latents.files[i]}: its latent is not {height} x {width}")
            mean, std = torch.stack([moments for moments, _ in samples]).chunk(2, dim=1)
            labels = torch.tensor([label for _, label in samples])
            writer.append(mean, std, labels, [latents.sources[i] for i in indices] if latents.sources else ())
    line = f"{out}: {len(latents)} latents of {type(latents).__name__}, {num_classes} classes, {dtype}"
    return "; ".join([line, *notes])
