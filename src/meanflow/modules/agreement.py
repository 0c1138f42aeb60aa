"""Checks that the parts of a method fit together, before data are opened.

``method=flow|dmf|imf`` chooses parts that fit. Parts that are chosen one by one may not.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from meanflow.models import NetworkModule
from meanflow.samplers import Sampler
from meanflow.types import FlowMapOutput, FlowOutput, IMFOutput, Objective


class Kind(NamedTuple):
    """Words for the networks with one kind of output.

    Attributes:
        noun: What such a network is.
        network: Options of the configuration group ``network``.
        objective: Option of the group ``objective`` that trains it.
        method: Option of the group ``method`` that chooses both.
    """

    noun: str
    network: str
    objective: str
    method: str


KINDS: dict[type, Kind] = {
    FlowOutput: Kind("a flow network", "sit_* or sit, aligned_sit", "flow_matching", "flow"),
    FlowMapOutput: Kind("a flow map network", "dmf_* or dmf", "dmf", "dmf"),
    IMFOutput: Kind("an improved MeanFlow network", "imf_* or imf", "imf", "imf"),
}


def require_agreement(network: NetworkModule, objective: Objective, sampler: Sampler) -> None:
    """Check that network, objective and sampler fit together.

    Args:
        network: The network to be trained.
        objective: The objective that trains it.
        sampler: The sampler of its samples.

    Raises:
        ValueError: If two of them do not; the message names both keys and the choices that go together.
    """
    name = type(network).__name__
    methods = " or ".join(f"method={kind.method}" for kind in KINDS.values())
    for key, part, attribute in (("network", network, "output"), ("objective", objective, "network_output")):
        if not hasattr(part, attribute):
            raise ValueError(
                f"{key} ({type(part).__name__}) does not belong to a flow or a flow map: {methods} chooses objective "
                "and network together"
            )
    has, needs = KINDS[network.output], KINDS[objective.network_output]
    if has != needs:
        raise ValueError(
            f"objective={needs.objective} needs {needs.noun} (network={needs.network}), and network is {has.noun} "
            f"({name}): method={needs.method} or method={has.method} chooses objective and network together"
        )
    if network.learns_logvar != objective.needs_logvar:
        uses, wanted = ("needs", "true") if objective.needs_logvar else ("does not use", "false")
        weighting = type(getattr(objective, "weighting", objective)).__name__
        raise ValueError(
            f"objective.weighting ({weighting}) {uses} the log-variance that a network learns with "
            f"network.logvar=true: set network.logvar={wanted}, or choose weighting@objective.weighting="
            + ("unweighted" if objective.needs_logvar else "per_sample or all_pairs")
        )
    if not network.config.get("v_heads", True):
        raise ValueError(
            f"objective={needs.objective} trains the v head of the network: network.v_heads must be true, got false, "
            "the form for evaluation"
        )
    require_sampler(network, sampler, has)


def require_sampler(network: NetworkModule, sampler: Sampler, kind: Kind) -> None:
    """Check that a sampler reads the output that the network has for samplers, and guides as the network needs it.

    Raises:
        ValueError: If it does not.
    """
    if sampler.output_field != network.output_field:
        raise ValueError(
            f"sampler ({type(sampler).__name__}) reads {sampler.output_field!r}, and network is {kind.noun} "
            f"({type(network).__name__}), whose samples are made with {network.output_field!r}: "
            f"method={kind.method} chooses network and sampler together"
        )
    if sampler.guidance.is_network_input != network.takes_guidance:
        takes, option = ("takes", "network") if network.takes_guidance else ("does not take", "classifier_free")
        raise ValueError(
            f"sampler.guidance ({type(sampler.guidance).__name__}) does not fit network, {kind.noun} "
            f"({type(network).__name__}) that {takes} guidance as an input: choose sampler/guidance={option}"
        )


def require_representation(network: NetworkModule, representation: nn.Module | None) -> None:
    """Check that a network with projectors has a representation to be aligned with, and another network has none.

    Raises:
        ValueError: If one of the two is there alone.
    """
    if ("alignment_dims" in network.config) != (representation is not None):
        raise ValueError(
            "a network with projectors (network=aligned_sit) and module.representation go together; got "
            f"{type(network).__name__} {'without' if representation is None else 'with'} a representation"
        )
