"""A trained model as one object: network, latent codec, normalization and sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from meanflow import codecs, models, random_streams, samplers
from meanflow.codecs.codec import Codec
from meanflow.codecs.normalization import Normalization
from meanflow.codecs.quantize import round_to_uint8
from meanflow.compilation import GraphedNetwork, compile_blocks
from meanflow.models import NetworkModule
from meanflow.samplers import Sampler
from meanflow.types import Condition, Network


class Pipeline:
    """Makes images with a trained network.

    Args:
        network: Flow or flow map network.
        codec: Latent codec.
        normalization: Map between the latents of the codec and the latents that the network was trained on.
        sampler: The sampler that is used unless a call names another one.

    Attributes:
        sampled: The network in the form that sampling calls: the network itself, or its CUDA graphs.
        precision: Data type of the network's matrix products, as in mixed precision; ``None`` is that of the weights.
        quantize: Turns images in [-1, 1] into uint8.

    Raises:
        ValueError: If network and normalization differ in the number of channels.
    """

    def __init__(self, network: NetworkModule, codec: Codec, normalization: Normalization, sampler: Sampler) -> None:
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
        self.sampled: Network = network

    @property
    def config(self) -> dict[str, Any]:
        """Plain values. ``from_config`` builds an equal pipeline from them, except for the weights."""
        return {
            "network": {"name": type(self.network).__name__, **self.network.config},
            "codec": self.codec.config,
            "normalization": self.normalization.to_dict(),
            "sampler": self.sampler.config,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pipeline:
        """Build a pipeline with freshly initialized weights.

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
        omega: float | None = None,
        interval: Sequence[float] | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Sample one image per label.

        Args:
            labels: Class labels ``(N,)``, from 0 to ``num_classes - 1``.
            num_steps: Number of steps; by default that of the sampler.
            seed: Seed of the noise. Image i depends on (seed, i, label i) only.
            batch_size: Number of images that are made at a time.
            sampler: Sampler; by default that of the pipeline.
            omega: Guidance scale; by default that of the sampler.
            interval: Guidance interval ``[t_min, t_max]``; by default that of the sampler.
            noise: Start noise ``(N, C, H, W)`` to use instead of the noise that the seed gives.

        Returns:
            Images, uint8 ``(N, C, H, W)``, on the CPU.

        Raises:
            ValueError: If an argument is out of range or a sample is not finite.
        """
        sampler = sampler or self.sampler
        if num_steps is not None:
            sampler = sampler.replace(num_steps=num_steps)
        if omega is not None:
            sampler = sampler.replace(guidance={"omega": omega})
        if interval is not None:
            sampler = sampler.replace(guidance={"interval": interval})
        batches = self.generate(torch.as_tensor(labels), seed, sampler=sampler, batch_size=batch_size, noise=noise)
        return torch.cat([images.cpu() for images in batches])

    def generate(
        self,
        labels: Tensor,
        seed: int,
        *,
        sampler: Sampler | None = None,
        quantize: Callable[[Tensor], Tensor] | None = None,
        batch_size: int = 64,
        indices: Sequence[int] | None = None,
        noise: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Make images in batches, for samples that do not fit in memory and for several ranks.

        All random numbers of sample i depend on ``(seed, i)`` alone. Images do not depend on the batch size, or on how
        the indices are divided among ranks (up to the rounding of the network). The start noise of a sample is the same
        for every sampler and number of steps.

        Args:
            labels: Class of every sample, int64 ``(N,)``, in [0, num_classes).
            seed: Seed, at least 0.
            sampler: Sampler; by default that of the pipeline.
            quantize: Turns images in [-1, 1] into uint8; by default that of the pipeline.
            batch_size: Number of images that are made at a time, at least 1.
            indices: The samples to make, all by default; ``range(rank, N, world_size)`` on one of several ranks.
            noise: Start noise of every sample ``(N, C, H, W)`` to use instead of the noise that the seed gives.

        Returns:
            Iterator over batches of images, uint8 ``(batch, C, H, W)`` on the pipeline's device, in the order of
            ``indices``.

        Raises:
            ValueError: At once if an argument is out of range; from the iterator if a sample is not finite.
        """
        sampler, quantize = sampler or self.sampler, quantize or self.quantize
        sampler.require_network(self.network)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        labels = self._require_labels(labels)
        indices = range(len(labels)) if indices is None else indices
        if len(indices) and not 0 <= min(indices) <= max(indices) < len(labels):
            raise ValueError(f"indices must be in [0, {len(labels)}), got {min(indices)} to {max(indices)}")
        if noise is not None and tuple(noise.shape) != (len(labels), *self._latent_shape):
            raise ValueError(f"noise must have shape {(len(labels), *self._latent_shape)}, got {tuple(noise.shape)}")

        def batches() -> Iterator[Tensor]:
            for start in range(0, len(indices), batch_size):
                chosen = list(indices[start : start + batch_size])
                e, injected = self._noises(sampler, seed, chosen)
                if noise is not None:
                    e = noise[chosen].to(e)
                cond = Condition(y=labels[chosen].to(self.device))
                with self.autocast():
                    x = sampler(
                        self.sampled, e.to(self.device), cond, None if injected is None else injected.to(self.device)
                    )
                _require_finite(x, chosen)
                with torch.no_grad():
                    yield quantize(self.codec.decode(self.normalization.denormalize(x.to(e.dtype))))

        return batches()

    def decode(self, x: Tensor) -> Tensor:
        """Return the images, uint8 ``(B, C, H, W)``, of normalized latents ``(B, C, h, w)``."""
        return self.quantize(self.codec.decode(self.normalization.denormalize(x)))

    def accelerate(self, dtype: torch.dtype = torch.bfloat16, compile: bool = True) -> Pipeline:
        """Sample faster from now on, in place: products in low precision, compiled blocks and decoder, CUDA graphs.

        Norms, times and the state of the sampler stay float32 or better. Call it after ``to``, and not for training:
        the weights lose their precision.

        Args:
            dtype: ``torch.bfloat16`` or ``torch.float16``.
            compile: Whether to compile. The first batch then takes up to a minute longer.

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

    def autocast(self) -> torch.autocast:
        """Return the context in which the network is called: mixed precision if the pipeline has a ``precision``."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not None)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the network and return the pipeline. The codec follows the latents that it is given."""
        self.network.to(device)
        return self

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        return self.network.in_channels, self.network.input_size, self.network.input_size

    def _require_labels(self, labels: Tensor) -> Tensor:
        """Return the labels on the CPU.

        Raises:
            ValueError: If they are not int64 ``(N,)`` in [0, num_classes).
        """
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64 of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}")
        labels, num_classes = labels.cpu(), self.network.num_classes
        outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
        if len(outside):
            first = int(outside[0])
            raise ValueError(
                f"labels must be in [0, {num_classes}), got {int(labels[first])} for sample {first} "
                f"({len(outside)} of {len(labels)} are outside)"
            )
        return labels

    def _noises(self, sampler: Sampler, seed: int, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Draw the noises of the samples of these indices, on the CPU.

        Returns:
            Start noise ``(B, C, H, W)`` and injected noise ``(num_noises, B, C, H, W)``, float32. The injected noise is
            ``None`` if the sampler injects none.
        """
        samples = []
        for index in indices:
            generator = random_streams.generator(seed, index, purpose=random_streams.SAMPLING)
            # One call for each noise: the start of one large draw differs from a small draw.
            draws = [torch.randn(self._latent_shape, generator=generator) for _ in range(1 + sampler.num_noises)]
            samples.append(torch.stack(draws))
        noises = torch.stack(samples, dim=1)
        return noises[0], noises[1:] if sampler.num_noises else None


def _require_finite(x: Tensor, indices: Sequence[int]) -> None:
    """Raise ValueError unless the latents ``x (B, C, H, W)`` of these samples are finite."""
    finite = torch.isfinite(x).flatten(1).all(dim=1)
    if not finite.all():
        bad = [indices[i] for i in (~finite).nonzero().flatten().tolist()]
        raise ValueError(f"latents must be finite, those of sample {bad[0]} are not ({len(bad)} in its batch)")
