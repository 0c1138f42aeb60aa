"""Small networks with random weights, as official files hold them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from meanflow.checkpoints.imf_torch import official_names
from meanflow.models import AlignedSiT, DMFTransformer, IMFTransformer, SiT
from tests.tiny import randomized

SIZES: dict[str, Any] = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 24,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 5,
}


def sit(**arguments: Any) -> SiT:
    return randomized(SiT(**SIZES | arguments), 1)


def aligned_sit(**arguments: Any) -> AlignedSiT:
    sizes = {"alignment_depth": 3, "alignment_dims": [6, 4], "projector_dim": 8} | SIZES
    return randomized(AlignedSiT(**sizes | arguments), 2)


def dmf(**arguments: Any) -> DMFTransformer:
    return randomized(DMFTransformer(**{"dmf_depth": 2} | SIZES | arguments), 3)


def imf(**arguments: Any) -> IMFTransformer:
    return randomized(IMFTransformer(**{"aux_head_depth": 1} | SIZES | arguments), 4)


def imf_weights(**arguments: Any) -> dict[str, Tensor]:
    """State dict of an iMF network under official names."""
    return official_names(imf(**arguments).state_dict())
