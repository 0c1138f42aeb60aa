"""Normalization of latents: the map from the raw latents of a codec to the input of a network.

The field has two conventions for one autoencoder, which must never be mixed. DMF, SiT and REPA multiply by 0.18215.
iMF standardizes each channel. A latent store keeps raw latents and records its normalization. A network that is trained
under one convention refuses a store of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Map ``(z - shift) * scale`` from raw latents to the input of a network, channel by channel.

    Args:
        shift: One number per channel, subtracted first.
        scale: One positive number per channel: a factor, not to be confused with a standard deviation to divide by.

    Raises:
        ValueError: If the lengths differ, or a number is not finite, or a scale is not positive.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        # Configuration files and JSON give lists.
        object.__setattr__(self, "shift", tuple(float(value) for value in self.shift))
        object.__setattr__(self, "scale", tuple(float(value) for value in self.scale))
        if not self.shift or len(self.shift) != len(self.scale):
            raise ValueError(
                f"shift and scale must have one number per channel, got {len(self.shift)} and {len(self.scale)}"
            )
        if not all(map(math.isfinite, self.shift)):
            raise ValueError(f"shift must be finite, got {list(self.shift)}")
        if not all(math.isfinite(value) and value > 0 for value in self.scale):
            raise ValueError(f"scale must be positive and finite, got {list(self.scale)}")

    def __str__(self) -> str:
        for name, normalization in NAMED.items():
            if self == normalization:
                return name
        if self == identity(self.num_channels):
            return f"identity ({self.num_channels} channels)"
        return f"shift {list(self.shift)}, scale {list(self.scale)}"

    @property
    def num_channels(self) -> int:
        """Number of latent channels."""
        return len(self.scale)

    def normalize(self, z: Tensor) -> Tensor:
        """Return ``(z - shift) * scale`` for raw latents, or means of posteriors over them, ``(..., C, H, W)``."""
        shift, scale = self.parameters(z)
        return (z - shift) * scale

    def denormalize(self, z: Tensor) -> Tensor:
        """Return the raw latents ``z / scale + shift``, a decoder's input, of normalized latents ``(..., C, H, W)``."""
        shift, scale = self.parameters(z)
        return z / scale + shift

    def normalize_std(self, std: Tensor) -> Tensor:
        """Return ``std * scale`` for standard deviations of raw latents ``(..., C, H, W)``."""
        return std * self.parameters(std)[1]

    def with_std(self) -> Normalization:
        """Return the map for means and standard deviations stacked along the channels. Only means are shifted."""
        return Normalization(self.shift + (0.0,) * self.num_channels, self.scale * 2)

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain numbers, as a manifest or a checkpoint records them."""
        return {"shift": list(self.shift), "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, config: Mapping[str, Sequence[float]]) -> Normalization:
        """Return the normalization with the numbers that ``to_dict`` returned.

        Raises:
            ValueError: If a key is missing or unknown, or a value is not a list of numbers.
        """
        if not isinstance(config, Mapping) or set(config) != {"shift", "scale"}:
            raise ValueError(f"normalization must have the keys shift and scale, got {config!r}")
        for key, values in config.items():
            if not isinstance(values, Sequence) or not all(isinstance(value, int | float) for value in values):
                raise ValueError(f"normalization.{key} must be a list of numbers, got {values!r}")
        return cls(tuple(config["shift"]), tuple(config["scale"]))

    def parameters(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and scale ``(C, 1, 1)`` in the data type of latents ``(..., C, H, W)`` and on their device."""
        if z.ndim < 3 or z.shape[-3] != self.num_channels:
            raise ValueError(f"latents must have {self.num_channels} channels, got the shape {tuple(z.shape)}")
        shift = torch.tensor(self.shift, dtype=z.dtype, device=z.device).reshape(-1, 1, 1)
        scale = torch.tensor(self.scale, dtype=z.dtype, device=z.device).reshape(-1, 1, 1)
        return shift, scale


def identity(channels: int) -> Normalization:
    """Return the normalization that changes nothing, for images in [-1, 1]."""
    return Normalization((0.0,) * channels, (1.0,) * channels)


# DMF, SiT, REPA: the scaling factor of the Stable Diffusion autoencoder.
SCALE_0_18215 = Normalization((0.0,) * 4, (0.18215,) * 4)
# iMF: mean and standard deviation of sd-vae-ft-mse latents on ImageNet (utils/vae_util.py of the official code).
IMF = Normalization(
    (0.86488, -0.27787343, 0.21616915, 0.3738409),
    tuple(1 / std for std in (4.85503674, 5.31922414, 3.93725398, 3.9870003)),
)
NAMED = {"scale_0_18215": SCALE_0_18215, "imf": IMF}


def named(name: str) -> Normalization:
    """Return the normalization of this name, one of ``NAMED``. Configuration files call this function.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in NAMED:
        raise ValueError(f"normalization must be one of {sorted(NAMED)}, got {name!r}")
    return NAMED[name]


def require_equal(store: Normalization, expected: Normalization, where: str) -> None:
    """Check that a store has the normalization that a network is trained under.

    Args:
        store: Normalization of the store.
        expected: Normalization of the network.
        where: Name of the store in the message.

    Raises:
        ValueError: If the two differ.
    """
    if store != expected:
        raise ValueError(f"{where}: the store is normalized for {store}, the network expects {expected}")
