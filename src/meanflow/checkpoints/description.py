"""The settings of a model: settings in its checkpoint, defaults, and settings that the user states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from meanflow.codecs import Codec
from meanflow.codecs.normalization import Normalization, named
from meanflow.samplers import Sampler

PARTS = ("codec", "normalization", "sampler")
# Settings of a pipeline by name: plain values and nested mappings.
Settings = dict[str, Any]
# Settings of a network that do not change its weights.
RUNTIME: Settings = {"attention": "sdpa", "activation_checkpointing": False}


class Description(NamedTuple):
    """The configuration of a pipeline, without nesting.

    The keys are ``network`` (name of the class), the arguments of the network, ``codec``, ``normalization`` and
    ``sampler``.

    Attributes:
        read: Settings that the file fixes.
        assumed: Defaults of the other settings. ``None`` marks a setting without a default, which the user must state.
    """

    read: Settings
    assumed: Settings

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Description:
        """Describe a checkpoint of this project by its configuration. The user may replace codec and sampler.

        Raises:
            ValueError: If a part of the configuration is missing.
        """
        missing = [key for key in ("network", *PARTS) if not isinstance(config.get(key), Mapping)]
        if missing:
            raise ValueError(f"the model configuration lacks {missing}")
        network = dict(config["network"])
        flat = {"network": network.pop("name", None), **network, **{key: config[key] for key in PARTS}}
        free = (*RUNTIME, "codec", "sampler")
        return cls(
            {key: value for key, value in flat.items() if key not in free},
            {key: value for key, value in flat.items() if key in free},
        )

    def settle(self, stated: Mapping[str, object], source: str) -> Settings:
        """Return the configuration for ``Pipeline.from_config``.

        Args:
            stated: Settings that the user states, by key. A codec, a normalization or a sampler is an object or its
                configuration.
            source: Name of the file, for messages.

        Raises:
            ValueError: If a stated setting is unknown or contradicts the file, or a setting without a default is not
                stated.
        """
        given = plain(stated)
        unknown = sorted(given.keys() - self.read.keys() - self.assumed.keys())
        if unknown:
            allowed = sorted(self.read.keys() | self.assumed.keys())
            raise ValueError(f"{source}: {unknown} cannot be stated, allowed settings are {allowed}")
        for key in sorted(given.keys() & self.read.keys()):
            if not _agree(given[key], self.read[key]):
                raise ValueError(f"{source}: {key} is {self.read[key]!r} in the file, but {given[key]!r} was stated")
        flat = self.assumed | given | self.read
        missing = sorted(key for key, value in flat.items() if value is None)
        if missing:
            raise ValueError(f"{source}: {missing} cannot be read from it and must be stated, as {missing[0]}=...")
        parts = {key: flat.pop(key) for key in PARTS}
        return {"network": {"name": flat.pop("network"), **flat}, **parts}


class Released(NamedTuple):
    """The content of an official file.

    Attributes:
        weights: State dict under the names of this project, float32.
        description: Settings of the model.
    """

    weights: dict[str, Tensor]
    description: Description


def plain(stated: Mapping[str, object]) -> Settings:
    """Return stated settings with each codec, normalization and sampler replaced by its configuration.

    Raises:
        ValueError: If a part has another type, or the name of a normalization is unknown.
    """
    settings = dict(stated)
    for key in PARTS:
        value = settings.get(key)
        if key == "normalization" and isinstance(value, str):
            value = named(value)
        if isinstance(value, Normalization):
            settings[key] = value.to_dict()
        elif isinstance(value, Codec | Sampler):
            settings[key] = value.config
        elif key in settings and not isinstance(value, Mapping):
            raise ValueError(f"{key} must be stated as an object or as its configuration, got {value!r}")
    return settings


def width_ratio(rows: int, hidden_size: int, official: float) -> float:
    """Return the ratio of inner units to ``hidden_size`` of a perceptron with ``rows`` inner units.

    The official ratio is preferred if it gives the same number of units.
    """
    for ratio in (official, rows / hidden_size):
        if int(hidden_size * ratio) == rows:
            return ratio
    return (rows + 0.5) / hidden_size  # rows / hidden_size * hidden_size rounds to just below rows


def _agree(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_agree, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_agree(a[key], b[key]) for key in a)
    return (type(a) is type(b) and a == b) or (isinstance(a, int) and isinstance(b, float) and a == b)
