"""Training of an autoencoder with a Gaussian posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow.types import LossOutput


class Reconstruction:
    """``|decode(z) - x| + kl_weight KL(q(z|x), N(0, 1))`` with ``z`` from the posterior ``q`` (Kingma, Welling, 2013).

    The first term is the mean over pixels, the divergence the mean over the elements of the latent. With the small
    weight of latent diffusion (Rombach et al., 2022) it keeps latents in bounds and hardly costs detail.

    Args:
        kl_weight: Weight of the divergence, at least 0.

    Raises:
        ValueError: If it is negative.
    """

    def __init__(self, kl_weight: float = 1e-3) -> None:
        if kl_weight < 0:
            raise ValueError(f"kl_weight must be at least 0, got {kl_weight}")
        self.kl_weight = kl_weight

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw the noise for latents of ``shape (B, C, h, w)``."""
        return torch.randn(*shape, generator=generator)

    def __call__(self, network: Any, x: Tensor, noise: Tensor) -> LossOutput:
        """Return the losses of images.

        Args:
            network: Diffusers' ``AutoencoderKL``.
            x: Images ``(B, channels, H, W)`` in [-1, 1].
            noise: Standard normal, of the shape of the latents.
        """
        posterior = network.encode(x).latent_dist
        decoded = network.decode(posterior.mean + posterior.std * noise).sample
        error = (decoded - x).abs().float().flatten(1).mean(dim=1)
        divergence = (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().flatten(1).mean(dim=1) / 2
        diagnostics = {"l1": error.mean().detach(), "kl": divergence.mean().detach()}
        return LossOutput(error + self.kl_weight * divergence, diagnostics, by_t={})
