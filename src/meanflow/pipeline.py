"""A trained model as one object: network, latent codec and sampler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from meanflow import codecs, models, samplers
from meanflow.codecs.codec import Codec
from meanflow.codecs.normalization import Normalization
from meanflow.codecs.quantize import round_to_uint8
from meanflow.compilation import GraphedNetwork, compile_blocks
from meanflow.generation import generate
from meanflow.samplers.sampler import Sampler


class Pipeline:
    """Draws images from a trained network.

    Args:
        network: Flow or flow map network.
        codec: Latent codec.
        normalization: What stands between the codec's latents and the network.
        sampler: Sampler used unless another one is asked for.

    Attributes:
        sampled: The network as sampling calls it.
        precision: Type of its matrix products; ``None`` is that of the weights.
    """

    def __init__(self, network: Any, codec: Codec, normalization: Normalization, sampler: Sampler) -> None:
        if network.in_channels != normalization.num_channels:
            raise ValueError(
                f"in_channels of the network must be the {normalization.num_channels} channels of the normalization, "
                f"got {network.in_channels}"
            )
        self.network = network
        self.codec = codec
        self.normalization = normalization
        self.sampler = sampler
        self.quantize = round_to_uint8
        self.precision: torch.dtype | None = None
        self.sampled = network

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which ``from_config`` builds an equal pipeline, weights aside."""
        return {
            "network": {"name": type(self.network).__name__, **self.network.config},
            "codec": self.codec.config,
            "normalization": self.normalization.to_dict(),
            "sampler": self.sampler.config,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pipeline:
        """Build a pipeline with freshly initialised weights.

        Raises:
            ValueError: If a part is missing or a name is unknown.
        """
        missing = [key for key in ("network", "codec", "normalization", "sampler") if key not in config]
        if missing:
            raise ValueError(f"the model configuration lacks {missing}")
        return cls(
            models.build(config["network"]),
            codecs.build(config["codec"]),
            Normalization.from_dict(config["normalization"]),
            samplers.build(config["sampler"]),
        )

    def sample(
        self,
        labels: Tensor | list[int],
        num_steps: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
        sampler: Sampler | None = None,
    ) -> Tensor:
        """Draw one image per label.

        Args:
            labels: Class labels ``(N,)``, from 0 to ``num_classes - 1``.
            num_steps: Number of sampler steps; the sampler's own by default.
            seed: Image i depends on (seed, i, label i) only.
            batch_size: Images drawn at once.
            sampler: In place of the pipeline's own.

        Returns:
            Images, uint8 ``(N, C, H, W)``, on the CPU.
        """
        sampler = sampler or self.sampler
        if num_steps is not None:
            sampler = sampler.replace(num_steps=num_steps)
        batches = generate(
            self.sampled,
            self.codec,
            sampler,
            torch.as_tensor(labels),
            seed,
            normalization=self.normalization,
            quantize=self.quantize,
            batch_size=batch_size,
            device=self.device,
            precision=self.precision,
        )
        return torch.cat([images.cpu() for images in batches])

    def accelerate(self, dtype: torch.dtype = torch.bfloat16, compile: bool = True) -> Pipeline:
        """Sample faster from now on, in place: products in low precision, blocks and decoder compiled, CUDA graphs.

        Norms, times and the state of the sampler stay float32 or better. Call it after ``to``, and not for training:
        the weights lose their precision.

        Args:
            dtype: ``torch.bfloat16`` or ``torch.float16``.
            compile: Whether to compile; the first batch then takes up to a minute longer.

        Returns:
            The pipeline itself.
        """
        self.precision = dtype
        for module in self.network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
        if compile:
            compile_blocks(self.network)
        if self.device.type == "cuda":
            self.sampled = GraphedNetwork(self.network)
        self.codec.accelerate(dtype, compile)
        return self

    def decode(self, x: Tensor) -> Tensor:
        """Return the images, uint8 ``(B, C, H, W)``, of normalised latents ``(B, C, h, w)``."""
        return self.quantize(self.codec.decode(self.normalization.denormalize(x)))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the network (the codec follows the latents it is given); return self."""
        self.network.to(device)
        return self
