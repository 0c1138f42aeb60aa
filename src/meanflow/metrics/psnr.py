"""The peak signal-to-noise ratio of reconstructed images."""

from __future__ import annotations

import torch
from torch import Tensor


def peak_signal_to_noise_ratio(images: Tensor, references: Tensor) -> Tensor:
    """Return the ratio of each image in decibels, ``(B,)``: ``10 log10(255^2 / mean squared error)``.

    The ratio of two equal images is infinite.

    Args:
        images: Reconstructed images, uint8 ``(B, C, H, W)``.
        references: Original images, uint8 ``(B, C, H, W)``.
    """
    error = ((images.double() - references.double()) ** 2).flatten(1).mean(dim=1)
    return 10 * torch.log10(255**2 / error)
