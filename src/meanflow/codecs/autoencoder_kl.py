"""The autoencoder of latent diffusion models, from the diffusers library."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from meanflow.codecs.codec import Codec, Moments


class AutoencoderKLCodec(Codec):
    """Diffusers' ``AutoencoderKL``, loaded on first use, so that constructing it needs neither network nor disk.

    Latents are raw: no scaling factor is applied, that is the part of ``meanflow.normalization``. The weights are
    float32, move to the device of what they are called on, and are never trained.

    Args:
        path: Hub id or local folder. The official stores were encoded with ``stabilityai/sd-vae-ft-mse``.
    """

    def __init__(self, path: str = "stabilityai/sd-vae-ft-mse") -> None:
        self.path = str(path)
        self.config = {"name": "autoencoder_kl", "path": self.path}

    @cached_property
    def network(self) -> Any:  # diffusers' annotations do not know that a model is a Module
        """The diffusers model, in evaluation mode.

        Raises:
            FileNotFoundError: If the weights are neither in the folder, nor in the local cache, nor to be downloaded.
        """
        from diffusers import AutoencoderKL

        try:
            # Safetensors only: unpickling a file executes what is in it.
            network = AutoencoderKL.from_pretrained(self.path, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"codec autoencoder_kl: no usable weights at path={self.path!r}: give a folder with config.json and "
                f"diffusion_pytorch_model.safetensors, or, where there is a network, run `hf download {self.path}` once"
            ) from error
        return network.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Moments:
        """Return mean and standard deviation ``(B, C, H / 8, W / 8)`` of RGB images ``(B, 3, H, W)`` in [-1, 1]."""
        posterior = self.network.to(images.device).encode(images.float()).latent_dist
        return Moments(posterior.mean, posterior.std)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return RGB images ``(B, 3, H, W)``, nominally in [-1, 1], for raw latents ``(B, C, H / 8, W / 8)``."""
        return self.network.to(latents.device).decode(latents.float()).sample
