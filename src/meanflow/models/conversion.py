"""Start a network from the weights of a flow network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from meanflow.models.loading import load_strictly

# The differences that are allowed between a flow network and the flow map that is made from it: the flow map has new
# parts, which keep their initial values, and has no alignment projectors.
NEW_KEYS = ("logvar_linear.", "q_norm.", "k_norm.")
DROPPED_KEYS = ("projectors.",)


class Conversion(NamedTuple):
    """The differences that ``load_flow_weights`` met.

    Attributes:
        new: Keys of the target that the source lacks. They keep their initial values.
        dropped: Keys of the source that the target lacks.
    """

    new: list[str]
    dropped: list[str]


def load_flow_weights(network: nn.Module, state_dict: Mapping[str, Tensor]) -> Conversion:
    """Load the weights of a flow network into a flow map network or another flow network.

    Args:
        network: The target.
        state_dict: Weights of the source, under official names.

    Raises:
        ValueError: If shapes differ, or keys differ that are not those of the log-variance head, the query and key
            norms or the alignment projectors. Nothing is loaded then.
    """
    own = network.state_dict()
    new = sorted(key for key in own.keys() - state_dict.keys() if any(part in key for part in NEW_KEYS))
    dropped = sorted(key for key in state_dict.keys() - own.keys() if key.startswith(DROPPED_KEYS))
    weights = {key: value for key, value in state_dict.items() if key not in dropped} | {key: own[key] for key in new}
    load_strictly(network, weights, "the flow network to start from")
    return Conversion(new, dropped)
