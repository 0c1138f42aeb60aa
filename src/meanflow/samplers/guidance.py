"""Guidance while sampling: how strongly, and at which times, samples are steered towards their class.

A sampler has one guidance object. Its class says how the network is guided. Not to be confused with
``meanflow.objectives.guidance``, the guided targets of training: a network that was trained on them is sampled
without guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from meanflow.types import Condition

Prediction = Callable[[Tensor, Condition], Tensor]


class SamplingGuidance:
    """Guidance scale and interval.

    Args:
        omega: Guidance scale, finite and at least 0; 1 is no guidance.
        interval: The times ``[t_min, t_max]`` between which guidance applies. Both ends belong to the interval.

    Attributes:
        is_network_input: Whether scale and interval are inputs of the network. A sampler needs a network whose
            ``takes_guidance`` is equal to it.

    Raises:
        ValueError: If ``omega`` is out of range, or ``interval`` is not two numbers in order.
    """

    is_network_input: ClassVar[bool]

    def __init__(self, omega: float = 1.0, interval: Sequence[float] = (0.0, 1.0)) -> None:
        if not (_is_number(omega) and 0 <= omega < float("inf")):
            raise ValueError(f"omega must be a number, at least 0 and finite (1 is no guidance), got {omega!r}")
        if not (_is_pair(interval) and interval[0] <= interval[1]):
            raise ValueError(f"interval must be [t_min, t_max] with t_min <= t_max, got {interval!r}")
        self.omega = omega
        self.interval = (interval[0], interval[1])

    @property
    def config(self) -> dict[str, Any]:
        """Name and arguments. ``build_guidance`` makes an equal guidance from them."""
        return {"name": type(self).__name__, "omega": self.omega, "interval": list(self.interval)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(omega={self.omega}, interval={list(self.interval)})"

    def prepare(self, cond: Condition, dtype: torch.dtype) -> Condition:
        """Return the condition that the network is called with.

        Args:
            cond: Condition of the samples.
            dtype: Data type of times.
        """
        return cond

    def evaluations_at(self, t: float) -> int:
        """Return how often a prediction evaluates the network in a step that starts at time ``t``."""
        return 1

    def predict(self, predict: Prediction, z: Tensor, cond: Condition, null_label: int, t: float) -> Tensor:
        """Return the guided prediction, float64.

        Args:
            predict: The network as a function of states and conditions.
            z: State ``(B, C, H, W)``.
            cond: Condition of the samples, as ``prepare`` returned it.
            null_label: The label that stands for "no class".
            t: Time at which the step starts.
        """
        return predict(z, cond).double()


class ClassifierFreeGuidance(SamplingGuidance):
    """Classifier-free guidance (Ho and Salimans, 2022, arXiv:2207.12598): ``p_null + omega (p_cond - p_null)``.

    A step that starts inside the interval evaluates the network twice, with the class and without, in one call. Other
    steps, and all steps with ``omega = 1``, evaluate it once.
    """

    is_network_input = False

    @override
    def evaluations_at(self, t: float) -> int:
        return 2 if self.omega != 1 and self.interval[0] <= t <= self.interval[1] else 1

    @override
    def predict(self, predict: Prediction, z: Tensor, cond: Condition, null_label: int, t: float) -> Tensor:
        if self.evaluations_at(t) == 1:
            return predict(z, cond).double()
        p_cond, p_null = predict(torch.cat([z, z]), _with_null(cond, null_label)).double().chunk(2)
        return p_null + self.omega * (p_cond - p_null)


class NetworkGuidance(SamplingGuidance):
    """Guidance as an input of the network, which was trained on many scales and intervals (iMF).

    Every step evaluates the network once. The network gets the same scale and interval in all steps; no step compares
    its time with the interval.

    Args:
        omega: Guidance scale, finite and above 0; 1 is no guidance.
        interval: The times ``[t_min, t_max]`` between which guidance applies.
    """

    is_network_input = True

    def __init__(self, omega: float = 1.0, interval: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__(omega, interval)
        if omega == 0:
            raise ValueError("omega must be above 0 for a network that takes guidance as an input (as 1 / omega)")

    @override
    def prepare(self, cond: Condition, dtype: torch.dtype) -> Condition:
        values = (self.omega, *self.interval)
        return Condition(cond.y, *(torch.full(cond.y.shape, a, dtype=dtype, device=cond.y.device) for a in values))


GUIDANCES: dict[str, type[SamplingGuidance]] = {cls.__name__: cls for cls in (ClassifierFreeGuidance, NetworkGuidance)}


def build_guidance(config: Mapping[str, Any]) -> SamplingGuidance:
    """Build guidance from ``{"name": class name, **arguments}``, as ``SamplingGuidance.config`` records it.

    Raises:
        ValueError: If there is no guidance of that name, it has no such argument, or an argument is out of range.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in GUIDANCES:
        raise ValueError(f"guidance name must be one of {sorted(GUIDANCES)}, got {name!r}")
    if unknown := sorted(arguments.keys() - {"omega", "interval"}):
        raise ValueError(f"{name} has no argument {unknown[0]!r}; it has ['interval', 'omega']")
    return GUIDANCES[name](**arguments)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(map(_is_number, value))


def _with_null(cond: Condition, null_label: int) -> Condition:
    """Stack a condition upon itself with the null label."""
    rest = (None if a is None else torch.cat([a, a]) for a in cond[1:])
    return Condition(torch.cat([cond.y, torch.full_like(cond.y, null_label)]), *rest)
