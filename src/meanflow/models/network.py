"""The base class of all networks: their configuration and the attributes that follow from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

from torch import nn

from meanflow.types import Output

# Sizes that are counts.
COUNTS = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")


class NetworkModule(nn.Module):
    """A network of this library as a module: ``meanflow.types.Network`` with parameters and a configuration.

    The signature of a subclass, with its docstring, is the one place that lists the arguments of a network. ``config``
    follows from the signature. Networks are built with keyword arguments.

    Attributes:
        config: The arguments of the constructor, with defaults, as plain values. They build an equal network.
        input_size: Height and width of the latent.
        patch_size: Height and width of a patch.
        grid_size: Patches per side of the latent.
        in_channels: Channels of the latent.
        num_classes: Number of classes.
        null_label: The label that stands for "no class".
        activation_checkpointing: Whether blocks are run again in the backward pass instead of keeping activations.
        output: Type of the output.
        sizes: Arguments of the official sizes, by name.
        learns_logvar: Whether the network learns the log-variance of its error.
        output_field: Name of the output that samplers read: ``v`` of a flow, ``u`` of a flow map.
        takes_guidance: Whether guidance scale and interval are inputs of the network.
        sampling_arguments: Further arguments of a call that needs ``output_field`` and no other output.

    Raises:
        ValueError: If a size is below 1, or ``input_size`` is not a multiple of ``patch_size``.
    """

    output: type[Output]
    sizes: ClassVar[Mapping[str, Mapping[str, int]]]
    learns_logvar: bool = False
    output_field: str
    takes_guidance: bool = False
    sampling_arguments: Mapping[str, str] = MappingProxyType({})

    def __new__(cls, **arguments: Any) -> Self:
        """Record the arguments before ``__init__`` runs."""
        network = super().__new__(cls)
        network.config = {key: _plain(arguments.get(key, default)) for key, default in _defaults(cls).items()}
        return network

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any]
        for key in COUNTS:
            if self.config[key] < 1:
                raise ValueError(f"{key} must be at least 1, got {self.config[key]}")
        self.input_size: int = self.config["input_size"]
        self.patch_size: int = self.config["patch_size"]
        if self.input_size % self.patch_size:
            raise ValueError(f"input_size must be a multiple of patch_size ({self.patch_size}), got {self.input_size}")
        self.grid_size = self.input_size // self.patch_size
        self.in_channels: int = self.config["in_channels"]
        self.num_classes: int = self.config["num_classes"]
        self.null_label = self.num_classes
        self.activation_checkpointing: bool = self.config["activation_checkpointing"]

    @classmethod
    def from_size(cls, size: str, **arguments: Any) -> Self:
        """Build a network of an official size such as ``"XL/2"``, size XL with patches of side 2.

        Args:
            size: Name of the size, one of ``sizes``.
            arguments: The other arguments of the constructor.

        Raises:
            ValueError: If there is no such size.
        """
        if size not in cls.sizes:
            raise ValueError(f"size must be one of {', '.join(cls.sizes)}; got {size!r}")
        build: Callable[..., Self] = cls
        return build(**cls.sizes[size], **arguments)


def _defaults(cls: type[NetworkModule]) -> dict[str, Any]:
    """Return the arguments of the constructors of a class and its base classes, base classes first, with defaults."""
    constructors = [base.__init__ for base in reversed(cls.__mro__) if issubclass(base, NetworkModule)]
    return {
        name: parameter.default
        for constructor in constructors
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }


def _plain(value: Any) -> Any:
    """Return an argument as a value that JSON and YAML can hold."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
