"""Samplers: from noise to data in a few evaluations of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meanflow.samplers.ctm import FlowMapCTM, FlowMapCTMVP
from meanflow.samplers.diffusion import DiffusionCoefficient, ELBODiffusion, SigmaDiffusion
from meanflow.samplers.euler import FlowEuler, FlowMapEuler
from meanflow.samplers.guidance import ClassifierFreeGuidance, NetworkGuidance, SamplingGuidance, build_guidance
from meanflow.samplers.heun import FlowHeun
from meanflow.samplers.restart import FlowMapRestart
from meanflow.samplers.sampler import Sampler
from meanflow.samplers.schedule import time_grid
from meanflow.samplers.sde import FlowSDE

SAMPLERS: dict[str, type[Sampler]] = {
    cls.__name__: cls for cls in (FlowEuler, FlowHeun, FlowSDE, FlowMapEuler, FlowMapRestart, FlowMapCTM, FlowMapCTMVP)
}

__all__ = [
    "SAMPLERS",
    "ClassifierFreeGuidance",
    "DiffusionCoefficient",
    "ELBODiffusion",
    "FlowEuler",
    "FlowHeun",
    "FlowMapCTM",
    "FlowMapCTMVP",
    "FlowMapEuler",
    "FlowMapRestart",
    "FlowSDE",
    "NetworkGuidance",
    "Sampler",
    "SamplingGuidance",
    "SigmaDiffusion",
    "build",
    "build_guidance",
    "time_grid",
]


def build(config: Mapping[str, Any]) -> Sampler:
    """Build a sampler from ``{"name": class name, **arguments}``, as ``Sampler.config`` records it.

    Raises:
        ValueError: If there is no sampler of that name, it has no such argument, or an argument is out of range.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in SAMPLERS:
        raise ValueError(f"sampler name must be one of {sorted(SAMPLERS)}, got {name!r}")
    if "num_steps" not in arguments:
        raise ValueError(f"sampler {name} needs num_steps (a whole number, at least 1)")
    return SAMPLERS[name](arguments.pop("num_steps")).replace(**arguments)
