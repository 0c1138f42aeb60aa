"""Training of an improved MeanFlow network from scratch."""

from __future__ import annotations

from typing import Any

from meanflow.modules.base import GenerativeModule


class IMFModule(GenerativeModule):
    """Improved MeanFlow.

    Args:
        arguments: Those of ``GenerativeModule``.

    Raises:
        ValueError: If the network is in its evaluation form, without the blocks of the v head.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not self.network.config["v_heads"]:
            raise ValueError("network.v_heads must be true for training; this network is in its evaluation form")
