"""The images that the latents of a store were encoded from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.images.crop import crop_image
from datamodules.images.files import open_image_files
from datamodules.images.formats import UnreadableImageError
from datamodules.store.reader import Store


class SourceImages:
    """The source image of each sample, cropped as it was encoded.

    Args:
        store: The store, or several stores as one.
        image_root: Folder, zip file or store that source paths are relative to; by default the one in the manifest.

    Raises:
        FileNotFoundError: If ``image_root`` does not exist.
        ValueError: If the store does not record the paths of its source images.
    """

    def __init__(self, store: Store, image_root: str | Path | None = None) -> None:
        self.parts = store.parts
        self.resolution = store.configuration.resolution
        self._starts = np.cumsum([0, *map(len, self.parts)])
        self._files = []
        for part in self.parts:
            root = image_root if image_root is not None else part.manifest.image_root
            if root is None:
                raise ValueError(f"{part.path}: image_root must be given, the manifest does not name one")
            _ = part.sources  # opened here, so that an error shows before worker processes start
            # A relative argument starts at the working directory, a relative value of the manifest at the store.
            self._files.append(open_image_files(root if image_root is not None else part.path / root))

    def crops(self, samples: np.ndarray) -> Tensor:
        """Return RGB images, uint8 ``(B, 3, resolution, resolution)``.

        Raises:
            FileNotFoundError: If an image does not exist.
            ValueError: If an image cannot be decoded.
        """
        crops = torch.empty((len(samples), 3, self.resolution, self.resolution), dtype=torch.uint8)
        part_of = np.searchsorted(self._starts, samples, side="right") - 1
        for row, (number, sample) in enumerate(zip(part_of, samples - self._starts[part_of], strict=True)):
            crops[row] = self._crop(number, sample)
        return crops

    def _crop(self, number: int, sample: int) -> Tensor:
        part, files = self.parts[number], self._files[number]
        name = part.sources[int(sample)]
        try:
            crop = files.decode(name, lambda image: crop_image(image, self.resolution))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{files.path / name}: source image of {part.path} not found; set image_root to its folder"
            ) from None
        except UnreadableImageError as error:
            raise ValueError(f"{files.path / name}: {error}") from error
        return torch.from_numpy(crop.pixels)
