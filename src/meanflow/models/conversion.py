"""Start a network from the weights of another one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

# What may differ between a flow network and the flow map made from it: the new parts keep their initial values, the
# alignment projectors are left behind.
NEW_KEYS = ("logvar_linear.", "q_norm.", "k_norm.")
DROPPED_KEYS = ("projectors.",)


class Conversion(NamedTuple):
    """What ``load_flow_weights`` did.

    Attributes:
        new: Keys of the target that the source lacks; they keep their initial values.
        dropped: Keys of the source that the target has no place for.
    """

    new: list[str]
    dropped: list[str]


def load_flow_weights(network: nn.Module, state_dict: dict[str, Tensor]) -> Conversion:
    """Load the weights of a flow network into a flow map network (or another flow network).

    Args:
        network: The target.
        state_dict: Weights of the source, under official names.

    Raises:
        ValueError: If other keys than the log-variance head, the query and key norms and the alignment projectors are
            missing or unexpected, or if shapes differ. Nothing is loaded then.
    """
    own = network.state_dict()
    new = sorted(own.keys() - state_dict.keys())
    dropped = sorted(state_dict.keys() - own.keys())
    missing = [key for key in new if not any(part in key for part in NEW_KEYS)]
    unexpected = [key for key in dropped if not key.startswith(DROPPED_KEYS)]
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state_dict.keys())
        if own[key].shape != state_dict[key].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"the weights are not those of a matching flow network: missing {missing}; unexpected {unexpected}; "
            f"other shapes {shapes}"
        )
    network.load_state_dict({key: value for key, value in state_dict.items() if key in own}, strict=False)
    return Conversion(new, dropped)
