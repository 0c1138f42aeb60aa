"""Loading weights into a network of exactly the same keys and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def load_strictly(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load weights, or raise and load nothing.

    torch's own strict loading copies the weights that fit before it raises.

    Args:
        network: The network whose weights are replaced.
        state_dict: The weights.
        source: Name of the file that the weights are from, for the message.

    Raises:
        ValueError: If keys or shapes differ. The message lists all differences.
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
