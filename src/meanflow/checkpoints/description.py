"""What a checkpoint says about its model, what it leaves open, and what the user states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from meanflow.codecs import Codec
from meanflow.codecs.normalization import Normalization, named
from meanflow.samplers import Sampler

PARTS = ("codec", "normalization", "sampler")
# How a network is run, which no weights depend on.
RUNTIME: dict[str, Any] = {"attention": "sdpa", "activation_checkpointing": False}


class Description(NamedTuple):
    """A pipeline's configuration as one flat mapping: ``network`` (the class), its arguments, and the other parts.

    Attributes:
        read: What the file fixes.
        assumed: What it does not say, with the default; ``None`` where there is none and the user has to state it.
    """

    read: dict[str, Any]
    assumed: dict[str, Any]

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Description:
        """Describe a checkpoint of ours, which records its configuration; codec and sampler may be replaced.

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

    def settle(self, stated: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Return the configuration for ``Pipeline.from_config``.

        Args:
            stated: What the user says, by the same keys; parts as objects or as their configuration.
            source: The file's name, for messages.

        Raises:
            ValueError: If something unknown is stated, something stated contradicts the file, or something that has no
                default is not stated.
        """
        said = plain(stated)
        unknown = sorted(said.keys() - self.read.keys() - self.assumed.keys())
        if unknown:
            allowed = sorted(self.read.keys() | self.assumed.keys())
            raise ValueError(f"{source}: {unknown} cannot be stated of it, only {allowed}")
        for key in sorted(said.keys() & self.read.keys()):
            if not _agree(said[key], self.read[key]):
                raise ValueError(f"{source}: {key} is {self.read[key]!r} in the file, but {said[key]!r} was stated")
        flat = self.assumed | said | self.read
        missing = sorted(key for key, value in flat.items() if value is None)
        if missing:
            raise ValueError(f"{source}: {missing} cannot be read from it and must be stated, as {missing[0]}=...")
        parts = {key: flat.pop(key) for key in PARTS}
        return {"network": {"name": flat.pop("network"), **flat}, **parts}


class Released(NamedTuple):
    """An official file, read.

    Attributes:
        weights: Under this project's names, float32.
        description: What the file says about its model.
    """

    weights: dict[str, Tensor]
    description: Description


def plain(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Replace codecs, normalisations (also by name) and samplers by their configuration.

    Raises:
        ValueError: If a part is none, or no normalisation has that name.
    """
    said = dict(stated)
    for key in PARTS:
        value = said.get(key)
        if key == "normalization" and isinstance(value, str):
            value = named(value)
        if isinstance(value, Normalization):
            said[key] = value.to_dict()
        elif isinstance(value, Codec | Sampler):
            said[key] = value.config
        elif key in said and not isinstance(value, Mapping):
            raise ValueError(f"{key} must be stated as an object or as its configuration, got {value!r}")
    return said


def width_ratio(rows: int, hidden_size: int, official: float) -> float:
    """Return the ratio that makes a perceptron of ``rows`` inner units: the official one if it does."""
    for ratio in (official, rows / hidden_size):
        if int(hidden_size * ratio) == rows:
            return ratio
    return (rows + 0.5) / hidden_size  # rows / hidden_size * hidden_size rounds to just below rows


def _agree(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_agree, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_agree(a[key], b[key]) for key in a)
    return (type(a) is type(b) and a == b) or (isinstance(a, int) and isinstance(b, float) and a == b)
