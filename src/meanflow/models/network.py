"""The base class of all networks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from meanflow.types import Output


class NetworkModule(nn.Module):
    """A network of this library as a module: ``meanflow.types.Network`` with parameters and a configuration.

    Attributes:
        config: The arguments of the constructor. An equal network can be built from them.
        input_size: Height and width of the latent.
        in_channels: Channels of the latent.
        num_classes: Number of classes.
        null_label: The label that stands for "no class".
        output: Type of the output.
        learns_logvar: Whether the network learns the log-variance of its error.
        output_field: Name of the output that samplers read: ``v`` of a flow, ``u`` of a flow map.
        takes_guidance: Whether guidance scale and interval are inputs of the network.
        sampling_arguments: Further arguments of a call that needs ``output_field`` and no other output.
    """

    config: dict[str, Any]
    input_size: int
    in_channels: int
    num_classes: int
    null_label: int
    output: type[Output]
    learns_logvar: bool = False
    output_field: str
    takes_guidance: bool = False
    sampling_arguments: Mapping[str, str] = MappingProxyType({})
