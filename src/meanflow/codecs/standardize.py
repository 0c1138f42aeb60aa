"""Standardizing the latents of an autoencoder: mean 0, standard deviation 1."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow.codecs.autoencoder import Autoencoder


@torch.no_grad()
def standardize(network: Autoencoder, mean: Tensor, std: Tensor) -> None:
    """Make ``(z - mean) / std`` the latents of an autoencoder. Its reconstructions stay the same.

    The weights of the 1 x 1 convolutions on both sides of the latents absorb the map. A user of the codec therefore
    needs no normalization, and cannot confuse two of them.

    Args:
        network: An autoencoder with both convolutions. It is changed in place, and its scaling factor becomes 1.
        mean: Mean of each channel of the latents ``(C,)``.
        std: Standard deviation of each channel ``(C,)``, positive.

    Raises:
        ValueError: If the autoencoder lacks a convolution.
    """
    before, after = network.quant_conv, network.post_quant_conv
    if before is None or after is None:
        raise ValueError("the autoencoder must have use_quant_conv and use_post_quant_conv")
    mean, std = mean.to(before.bias), std.to(before.bias)
    channels = len(mean)
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()  # the second half of the channels is the log-variance
    before.weight[:channels] /= std.reshape(-1, 1, 1, 1)
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std.reshape(1, -1, 1, 1)
    network.register_to_config(scaling_factor=1.0, shift_factor=None)
