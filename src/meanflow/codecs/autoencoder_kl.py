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
        batch_size: Images that go through the network at once; at 512 pixels each needs about a GiB.
    """

    def __init__(self, path: str = "stabilityai/sd-vae-ft-mse", batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.path = str(path)
        self.batch_size = batch_size
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

    def prepare(self) -> None:
        """Load the weights."""
        _ = self.network

    def accelerate(self, dtype: torch.dtype, compile: bool) -> None:
        """Decode in ``dtype`` with channels last, the layout of fast convolutions, and compiled if asked to.

        Encoding goes on in float32.
        """
        decoder = self.network.decoder
        self.network.post_quant_conv.to(dtype)
        decoder.to(dtype, memory_format=torch.channels_last)
        if compile:
            decoder.compile()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Moments:
        """Return mean and standard deviation ``(B, C, H / 8, W / 8)`` of RGB images ``(B, 3, H, W)`` in [-1, 1]."""
        network = self.network.to(images.device)
        posteriors = [network.encode(part.float()).latent_dist for part in images.split(self.batch_size)]
        return Moments(torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors]))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return RGB images ``(B, 3, H, W)``, nominally in [-1, 1], for raw latents ``(B, C, H / 8, W / 8)``."""
        network = self.network.to(latents.device)
        dtype = network.post_quant_conv.weight.dtype
        parts = latents.to(dtype).split(self.batch_size)
        # Outside autocast, under which half of the decoder would run in float32.
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat([network.decode(part).sample.float() for part in parts])
