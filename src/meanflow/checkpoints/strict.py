"""Loading weights with nothing missing and nothing left over."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def load_strictly(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a network of exactly these keys and shapes.

    Args:
        network: The target.
        state_dict: The weights.
        source: The file's name, for the message.

    Raises:
        ValueError: If keys or shapes differ; all of them are listed, and nothing is loaded.
    """
    own = network.state_dict()
    missing = sorted(own.keys() - state_dict.keys())
    unexpected = sorted(state_dict.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state_dict.keys())
        if state_dict[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"{source} is of another architecture: missing keys {missing}; unexpected keys {unexpected}; "
            f"other shapes {shapes}"
        )
    network.load_state_dict(dict(state_dict))
