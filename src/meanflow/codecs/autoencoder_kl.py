"""The autoencoder of latent diffusion models, from the diffusers library."""

from __future__ import annotations

import hashlib
from functools import cached_property

import torch
from torch import Tensor

from meanflow.codecs.autoencoder import Autoencoder
from meanflow.codecs.codec import Codec, Moments


class AutoencoderKLCodec(Codec):
    """Diffusers' ``AutoencoderKL``. The first use loads the weights; the constructor reads nothing.

    Latents are raw: ``meanflow.codecs.normalization`` scales them. The weights are float32, move to the device of
    the images or latents, and are never trained.

    Args:
        path: Hub id or local folder. The official stores were encoded with ``stabilityai/sd-vae-ft-mse``.
        batch_size: Images that go through the network at once. An image of 512 pixels needs about a GiB.
    """

    def __init__(self, path: str = "stabilityai/sd-vae-ft-mse", batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.path = str(path)
        self.batch_size = batch_size
        self.config = {"name": "autoencoder_kl", "path": self.path}

    @cached_property
    def network(self) -> Autoencoder:
        """The diffusers model, in evaluation mode.

        Raises:
            FileNotFoundError: If ``path`` is no folder with weights, and the weights are neither in the local cache nor
                to be downloaded.
        """
        from diffusers import AutoencoderKL

        try:
            # Safetensors only: unpickling a file can execute code.
            network = AutoencoderKL.from_pretrained(self.path, use_safetensors=True, low_cpu_mem_usage=False)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"codec autoencoder_kl: no usable weights at path={self.path!r}: give a folder with config.json and "
                f"diffusion_pytorch_model.safetensors, or, where there is a network, run `hf download {self.path}` once"
            ) from error
        return network.eval().requires_grad_(False)

    @property
    def image_channels(self) -> int:
        """Channels of the images: 3 for Stable Diffusion's."""
        return self.network.config.in_channels

    @property
    def scaling_factor(self) -> float:
        """The setting ``scaling_factor`` of the diffusers model, 0.18215 by default."""
        return self.network.config.scaling_factor

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents. Each level of the encoder but the last halves the image.

        Raises:
            ValueError: If ``resolution`` is no positive multiple of the factor between image and latents.
        """
        factor = 2 ** (len(self.network.config.block_out_channels) - 1)
        if resolution < 1 or resolution % factor:
            raise ValueError(f"resolution must be a multiple of {factor} for the codec {self.path}, got {resolution}")
        return self.network.config.latent_channels, resolution // factor, resolution // factor

    def fingerprint(self) -> str:
        """Return the sha256 of the weights, in hexadecimal digits."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def prepare(self) -> None:
        """Load the weights."""
        _ = self.network

    def accelerate(self, dtype: torch.dtype, compile: bool) -> None:
        """Decode in ``dtype`` and with channels last, the layout of fast convolutions. Encoding stays in float32.

        Args:
            dtype: Data type of the decoder's products.
            compile: Whether to compile the decoder.
        """
        decoder, convolution = self.network.decoder, self.network.post_quant_conv
        if convolution is not None:
            convolution.to(dtype)
        decoder.to(dtype).to(memory_format=torch.channels_last)
        if compile:
            decoder.compile()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Moments:
        """Return mean and standard deviation of the raw latents of images ``(B, image_channels, H, W)`` in [-1, 1]."""
        network = self.network.to(images.device)
        posteriors = [network.encode(part.float()).latent_dist for part in images.split(self.batch_size)]
        return Moments(torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors]))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images ``(B, image_channels, H, W)``, nominally in [-1, 1], for raw latents."""
        network = self.network.to(latents.device)
        dtype = next(network.decoder.parameters()).dtype
        parts = latents.to(dtype).split(self.batch_size)
        # Autocast would run half of the decoder in float32.
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat([network.decode(part).sample.float() for part in parts])
