"""From decoded images to 8-bit pixels.

The two conventions differ by half a grey level on average, which a Fréchet distance can see; an evaluation protocol
names the one it uses.
"""

from __future__ import annotations

import torch
from torch import Tensor


def round_to_uint8(x: Tensor) -> Tensor:
    """Return the nearest grey levels, uint8, of images in [-1, 1] (iMF): ``round(clip((x + 1) / 2 * 255, 0, 255))``."""
    return torch.round(torch.clamp((x.float() + 1) / 2 * 255, 0, 255)).to(torch.uint8)


def truncate_to_uint8(x: Tensor) -> Tensor:
    """Return the grey levels below, uint8, of images in [-1, 1] (DMF, SiT, EDM2): ``clip(255 (x + 1) / 2, 0, 255)``."""
    return torch.clamp(255 * (x.float() + 1) / 2, 0, 255).to(torch.uint8)
