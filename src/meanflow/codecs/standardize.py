"""An autoencoder whose latents have mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def standardize(network: Any, mean: Tensor, std: Tensor) -> None:
    """Make ``(z - mean) / std`` the latents of an autoencoder; what it reconstructs stays the same.

    The map goes into the 1 x 1 convolutions on both sides of the latent, so that no normalisation has to be known, or
    can be mixed up, where the codec is used.

    Args:
        network: Diffusers' ``AutoencoderKL`` with both convolutions; changed in place, its scaling factor becomes 1.
        mean: Mean of each channel of the latents ``(C,)``.
        std: Standard deviation of each channel, positive.

    Raises:
        ValueError: If the network lacks the convolutions.
    """
    before, after = network.quant_conv, network.post_quant_conv
    if before is None or after is None:
        raise ValueError("the autoencoder must have use_quant_conv and use_post_quant_conv")
    mean, std = mean.to(before.bias), std.to(before.bias)
    channels = len(mean)
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()  # the log-variance
    before.weight[:channels] /= std.reshape(-1, 1, 1, 1)
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std.reshape(1, -1, 1, 1)
    network.register_to_config(scaling_factor=1.0, shift_factor=None)
