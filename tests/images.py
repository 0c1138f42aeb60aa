"""Small image folders and a very small autoencoder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def picture(seed: int, width: int = 12, height: int = 10) -> Image.Image:
    """An RGB image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_class_folders(path: Path, num_images: int = 10, num_classes: int = 3) -> list[str]:
    """Write ``train/n<class>/<image>.png``; return the names in the order of the classes."""
    names = []
    for number in range(num_images):
        name = f"train/n{number % num_classes}/{number:03d}.png"
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path / name)
        names.append(name)
    return sorted(names)


def write_flat(path: Path, num_images: int = 10, num_classes: int = 3) -> list[str]:
    """Write the layout of EDM2; return the names."""
    labels = []
    for number in range(num_images):
        name = f"{number // 4:05d}/img{number:08d}.png"
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path / name)
        labels.append([name, number % num_classes])
    (path / "dataset.json").write_text(json.dumps({"labels": labels}))
    return [name for name, _ in labels]


def write_zip(folder: Path, path: Path, prefix: str = "") -> Path:
    """Pack a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def write_autoencoder(path: Path, image_channels: int = 3, seed: int = 0) -> Path:
    """Write a diffusers ``AutoencoderKL`` that halves images and has four latent channels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
    ).save_pretrained(path)
    return path
