"""Training of an autoencoder with a Gaussian posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meanflow.types import LossOutput

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


class Reconstruction:
    """``|decode(z) - x| + kl_weight KL(q(z|x), N(0, 1))`` with ``z`` from the posterior ``q`` (Kingma, Welling, 2013).

    The first term is a mean over pixels. The divergence is a mean over the entries of the latent. With the small
    weight of latent diffusion (Rombach et al., 2022), the divergence keeps latents in bounds and hardly costs detail.

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

    def __call__(self, network: AutoencoderKL, x: Tensor, noise: Tensor) -> LossOutput:
        """Return losses ``(B,)``.

        Args:
            network: Autoencoder.
            x: Images ``(B, 1 or 3, H, W)`` in [-1, 1].
            noise: Standard normal numbers of the shape of the latents ``(B, C, h, w)``.
        """
        posterior = network.encode(x).latent_dist
        decoded = network.decode(posterior.mean + posterior.std * noise).sample
        error = (decoded - x).abs().float().flatten(1).mean(dim=1)
        divergence = (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().flatten(1).mean(dim=1) / 2
        diagnostics = {"l1": error.mean().detach(), "kl": divergence.mean().detach()}
        return LossOutput(error + self.kl_weight * divergence, diagnostics, by_t={})
