"""Many images as one picture."""

from __future__ import annotations

import math

import numpy as np
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor


def image_grid(images: Tensor, num_columns: int, min_side: int = 64, border: int = 1) -> Image.Image:
    """Arrange images in rows.

    Args:
        images: uint8 ``(N, 1 or 3, H, W)``.
        num_columns: Images per row.
        min_side: Images smaller than this are enlarged by a whole factor, pixel by pixel.
        border: Width of the white line between images, in pixels.

    Returns:
        An RGB picture. Missing images of the last row are white.
    """
    tiles = images.cpu().numpy()
    if tiles.shape[1] == 1:
        tiles = repeat(tiles, "n 1 h w -> n 3 h w")
    factor = max(1, math.ceil(min_side / min(tiles.shape[-2:])))
    tiles = repeat(tiles, "n c h w -> n c (h i) (w j)", i=factor, j=factor)
    num_rows = math.ceil(len(tiles) / num_columns)
    blank = np.full((num_rows * num_columns - len(tiles), *tiles.shape[1:]), 255, dtype=np.uint8)
    tiles = np.pad(np.concatenate([tiles, blank]), ((0, 0), (0, 0), (0, border), (0, border)), constant_values=255)
    return Image.fromarray(rearrange(tiles, "(r k) c h w -> (r h) (k w) c", k=num_columns))
