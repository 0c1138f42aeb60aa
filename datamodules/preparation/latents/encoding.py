"""From the decoded images of a part to rows of a shard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from datamodules.preparation.bad_images import BadImage
from datamodules.preparation.decoding import DecodedPart
from datamodules.store.array_file import not_finite
from meanflow.codecs import Codec
from meanflow.files.atomic import atomic_file


@dataclass(frozen=True)
class EncodedPart:
    """The latents of a part.

    Args:
        rows: Latents ``(B, *row_shape)``, as a shard holds them.
        flipped_rows: Latents of the horizontally flipped images, or ``None``.
        kept: Number of each encoded image in the plan.
        bad: Images of the part that could not be decoded.
        num_enlarged: How many images are smaller than the crop.
        num_rotated: How many images have an EXIF orientation.
    """

    rows: Tensor
    flipped_rows: Tensor | None
    kept: list[int]
    bad: list[BadImage]
    num_enlarged: int
    num_rotated: int

    def write(self, path: Path) -> None:
        """Write the part to a file, whole or not at all."""
        tensors = {"rows": self.rows} | ({} if self.flipped_rows is None else {"flipped_rows": self.flipped_rows})
        metadata = {key: json.dumps(getattr(self, key)) for key in ("kept", "bad", "num_enlarged", "num_rotated")}
        with atomic_file(path) as file:
            file.write(save(tensors, metadata))

    @classmethod
    def read(cls, path: Path) -> EncodedPart:
        """Read a file that ``write`` wrote."""
        with safetensors.safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in file.metadata().items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata["bad"] = [BadImage(*entry) for entry in metadata["bad"]]
        return cls(tensors["rows"], tensors.get("flipped_rows"), **metadata)


class Encoder:
    """Turns decoded parts into encoded parts.

    Args:
        codec: The codec.
        row_shape: Shape of a row of a shard.
        dtype: ``float16`` or ``float32``.
        precision: ``fp32`` or ``bf16``.
        flipped_copies: Whether to encode the horizontally flipped images as well.
        device: Where to encode.
    """

    def __init__(
        self,
        codec: Codec,
        row_shape: tuple[int, ...],
        dtype: str,
        precision: str,
        flipped_copies: bool,
        device: torch.device,
    ) -> None:
        self.codec = codec
        self.row_shape = row_shape
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.precision = precision
        self.flipped_copies = flipped_copies
        self.device = device

    def __call__(self, part: DecodedPart) -> EncodedPart:
        """Encode a part.

        Raises:
            NonFiniteLatentError: If a latent is not finite in the data type of the store.
        """
        images = part.pixels.to(self.device, non_blocking=True).float() / 127.5 - 1
        return EncodedPart(self._rows(images), self._rows(images.flip(-1)) if self.flipped_copies else None, *part[1:])

    def _rows(self, images: Tensor) -> Tensor:
        if not len(images):
            return torch.empty((0, *self.row_shape), dtype=self.dtype)
        # Deterministic algorithms only: the fastest ones of a GPU add in any order, and the bytes of a store must not
        # change from run to run.
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        ):
            mean, std = self.codec.encode(images)
        rows = (mean if std is None else torch.cat([mean, std], dim=1)).to(self.dtype).cpu().contiguous()
        if len(bad := not_finite(rows.numpy())):
            raise NonFiniteLatentError(int(bad[0]))
        return rows


class NonFiniteLatentError(ValueError):
    """The codec returned a latent that is not finite in the data type of the store.

    Args:
        row: Row of the image in the pixels of its part.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"the latent of image {row} of the part is not finite")
        self.row = row
