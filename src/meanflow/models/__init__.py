"""Networks."""

from __future__ import annotations

from typing import Any

from meanflow.models.conversion import Conversion, load_flow_weights
from meanflow.models.dmf import DMFTransformer
from meanflow.models.imf import IMFTransformer
from meanflow.models.loading import load_strictly
from meanflow.models.network import NetworkModule
from meanflow.models.sit import AlignedSiT, SiT
from meanflow.models.sizes import PATCH_SIZES, SIT_SIZES, SIZES

NETWORKS: dict[str, type[NetworkModule]] = {
    cls.__name__: cls for cls in (SiT, AlignedSiT, DMFTransformer, IMFTransformer)
}

__all__ = [
    "NETWORKS",
    "PATCH_SIZES",
    "SIT_SIZES",
    "SIZES",
    "AlignedSiT",
    "Conversion",
    "DMFTransformer",
    "IMFTransformer",
    "NetworkModule",
    "SiT",
    "build",
    "load_flow_weights",
    "load_strictly",
]


def build(config: dict[str, Any]) -> NetworkModule:
    """Build a network from ``{"name": class name, **arguments}``, as checkpoints record it.

    Raises:
        ValueError: If there is no network of that name.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in NETWORKS:
        raise ValueError(f"network name must be one of {sorted(NETWORKS)}, got {name!r}")
    try:
        return NETWORKS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"the configuration of network {name} does not fit: {error}") from error
