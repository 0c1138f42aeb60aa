"""From decoded images to 8-bit pixels.

Truncation makes images half a gray level darker on average than rounding, which a Fréchet distance can see. The two
ways of rounding differ at ties only. An evaluation protocol names the way that it uses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def round_to_uint8(x: Tensor) -> Tensor:
    """Return the nearest gray levels, uint8, of images in [-1, 1], with ties to even (iMF in PyTorch)."""
    return torch.round(torch.clamp((x.float() + 1) / 2 * 255, 0, 255)).to(torch.uint8)


def truncate_to_uint8(x: Tensor) -> Tensor:
    """Return the gray levels below, uint8, of images in [-1, 1] (DMF, SiT, EDM2): ``clip(255 (x + 1) / 2, 0, 255)``."""
    return torch.clamp(255 * (x.float() + 1) / 2, 0, 255).to(torch.uint8)


def round_half_up_to_uint8(x: Tensor) -> Tensor:
    """Return the nearest gray levels, uint8, of images in [-1, 1], with ties upward (iMF in JAX)."""
    return torch.clamp(127.5 * x.float() + 128, 0, 255).to(torch.uint8)


# By the name that an evaluation protocol uses.
ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "round": round_to_uint8,
    "truncate": truncate_to_uint8,
    "round_half_up": round_half_up_to_uint8,
}
