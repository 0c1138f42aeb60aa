"""Data sets of the official DMF and iMF code, and their conversion to latent stores.

Both hold one file for each image, with mean and standard deviation of the sd-vae-ft-mse posterior: raw (not scaled),
float32, stacked along the channels. ``DMFLatents`` reads ``vae-sd/*/img-mean-std-*.npy`` with labels in
``dataset.json``; ``IMFLatents`` reads ``.pt`` files. Reading executes nothing. ``convert_to_store`` writes either data
set as a latent store, which is read much faster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.images.dataset_json import parse_labels
from datamodules.store.writer import LatentStoreWriter
from meanflow.codecs.normalization import IMF, SCALE_0_18215, Normalization
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
    """

    normalization: Normalization
    path: Path
    files: list[str]
    sources: Sequence[str] = ()
    image_root: Path | None = None

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
        return moments


class DMFLatents(OfficialLatents):
    """Data set of the DMF code, as ``dataset_tools.py encode`` of that code writes it.

    Args:
        path: The folder that holds ``vae-sd`` and ``images``, or ``vae-sd`` itself.

    Raises:
        FileNotFoundError: If ``dataset.json`` is missing, or lists other files than the folder holds.
        ValueError: If ``dataset.json`` is damaged or has no labels.
    """

    normalization = SCALE_0_18215

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / "vae-sd" if (path / "vae-sd").is_dir() else path
        file = self.path / "dataset.json"
        if not file.is_file():
            raise FileNotFoundError(f"{self.path} is no data set of the DMF code: there is no {file.name}")
        labels = parse_labels(file.read_bytes(), str(file))
        self.files = sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*.npy"))
        missing = sorted(labels.keys() - set(self.files)) or sorted(set(self.files) - labels.keys())
        if missing:
            raise FileNotFoundError(
                f"{self.path}: {missing[0]} (one of {len(missing)}) is not both on disk and in dataset.json"
            )
        self._labels = [labels[file] for file in self.files]
        images = self.path.parent / "images"
        if images.is_dir():
            self.image_root = images
            # Image and latent of a sample have the same position in the two sorted lists.
            self.sources = sorted(p.relative_to(images).as_posix() for p in images.rglob("*.png"))
            if len(self.sources) != len(self.files):
                raise ValueError(f"{images} has {len(self.sources)} images for {len(self.files)} latents")

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file = self.path / self.files[index]
        try:
            array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{file}: truncated, or not a .npy file ({str(error).splitlines()[0]})") from error
        return self._checked(torch.from_numpy(np.asarray(array)), file), self._labels[index]

    def image(self, index: int) -> Tensor:
        """Return the source image of a sample, uint8 ``(3, H, W)``.

        Raises:
            FileNotFoundError: If the data set has no images.
        """
        if self.image_root is None:
            raise FileNotFoundError(f"{self.path.parent} has no folder images")
        with Image.open(self.image_root / self.sources[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


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
        return self._checked(content["image"], file).contiguous(), int(content["label"])


def open_official(path: str | Path) -> OfficialLatents:
    """Open a data set of the DMF code or of the iMF code.

    Raises:
        FileNotFoundError: If ``path`` is neither.
    """
    path = Path(path)
    if (path / "dataset.json").is_file() or (path / "vae-sd" / "dataset.json").is_file():
        return DMFLatents(path)
    if path.is_dir() and any(next(folder.glob("*.pt"), None) for folder in (path, path / "train")):
        return IMFLatents(path)
    raise FileNotFoundError(f"{path} is no official data set: neither a dataset.json (DMF) nor .pt files (iMF) in it")


def convert_to_store(
    source: str | Path, out: str | Path, num_classes: int = 1000, dtype: str = "float16", batch_size: int = 256
) -> str:
    """Write an official data set as a latent store.

    Args:
        source: Folder of the data set.
        out: Folder of the new store.
        num_classes: Number of classes. Labels must be smaller.
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
    with LatentStoreWriter(
        out,
        kind="moments",
        codec=CODEC,
        normalization=latents.normalization,
        resolution=height * PIXELS_PER_LATENT,
        latent_shape=(channels // 2, height, width),
        num_classes=num_classes,
        dtype=dtype,
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
    return f"{out}: {len(latents)} latents of {type(latents).__name__}, {num_classes} classes, {dtype}"
