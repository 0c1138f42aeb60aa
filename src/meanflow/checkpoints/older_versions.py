"""Configurations that older versions of this project recorded, in the form of this version.

Samplers of older versions had no guidance object. They recorded ``omega``, ``t_min`` and ``t_max`` together with their
own arguments. The sampler of iMF networks was ``IMFEuler``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Samplers that passed scale and interval to the network, and the present samplers of the same steps.
NETWORK_GUIDED = {"IMFEuler": "FlowMapEuler"}


def present_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a pipeline in the form of this version.

    Args:
        config: Configuration that this version or an older one recorded.
    """
    sampler = config.get("sampler")
    return {**config, "sampler": present_sampler(sampler)} if isinstance(sampler, Mapping) else dict(config)


def present_sampler(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a sampler in the form of this version."""
    name = config.get("name")
    if name not in NETWORK_GUIDED and not {"omega", "t_min", "t_max"} & config.keys():
        return dict(config)
    sampler = dict(config)
    omega, t_min, t_max = (
        sampler.pop(key, default) for key, default in (("omega", 1.0), ("t_min", 0.0), ("t_max", 1.0))
    )
    kind = "NetworkGuidance" if name in NETWORK_GUIDED else "ClassifierFreeGuidance"
    guidance = {"name": kind, "omega": omega, "interval": [t_min, t_max]}
    return sampler | {"name": NETWORK_GUIDED.get(str(name), name), "guidance": guidance}
