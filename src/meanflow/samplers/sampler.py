"""The base class of all samplers: settings, a grid of times, and a walk along the grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from meanflow.samplers.guidance import ClassifierFreeGuidance, SamplingGuidance, build_guidance
from meanflow.samplers.schedule import time_grid
from meanflow.types import Condition, Network


class Sampler(ABC):
    """Walks from noise at t = 1 to data at t = 0.

    The state is float64. The network gets the state in the data type of the start noise. It gets times in float32, or
    in float64 if the start noise is float64.

    Args:
        num_steps: Number of steps, at least 1.
        shift: Time shift, above 0; 1 leaves the times uniform (``schedule.time_grid``).
        guidance: Guidance of the samples. ``None`` is no guidance, for a network that does not take guidance as an
            input.

    Attributes:
        output_field: Name of the output that the sampler reads: ``v`` of a flow, ``u`` of a flow map.
        times: The times of the walk, from 1 to 0. Step i goes from ``times[i]`` to ``times[i + 1]``.

    Raises:
        ValueError: If an argument is out of range.
    """

    output_field: ClassVar[str]

    def __init__(self, num_steps: int, shift: float = 1.0, guidance: SamplingGuidance | None = None) -> None:
        self.num_steps = num_steps
        self.shift = shift
        self.guidance = guidance or ClassifierFreeGuidance()
        self.times: list[float] = time_grid(num_steps, shift).tolist()

    @property
    def config(self) -> dict[str, Any]:
        """Name and arguments as plain values. ``samplers.build`` makes an equal sampler from them."""
        return {
            "name": type(self).__name__,
            "num_steps": self.num_steps,
            "shift": self.shift,
            "guidance": self.guidance.config,
        }

    def replace(self, **arguments: Any) -> Self:
        """Return a sampler with some arguments replaced: ``replace(num_steps=4)``.

        ``guidance`` may be a mapping of the arguments to replace: ``replace(guidance={"omega": 2.0})`` keeps the kind
        of guidance and its interval.

        Raises:
            ValueError: If the sampler has no such argument, or an argument is out of range.
        """
        current = {key: value for key, value in self.config.items() if key != "name"} | {"guidance": self.guidance}
        unknown = sorted(arguments.keys() - current.keys())
        if unknown:
            raise ValueError(f"{type(self).__name__} has no argument {unknown[0]!r}; it has {sorted(current)}")
        guidance = arguments.get("guidance")
        if isinstance(guidance, Mapping):
            arguments["guidance"] = build_guidance({**self.guidance.config, **guidance})
        return type(self)(**(current | arguments))

    def __repr__(self) -> str:
        arguments = {key: value for key, value in self.config.items() if key != "name"} | {"guidance": self.guidance}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"

    @property
    def num_noises(self) -> int:
        """Number of noises that are injected on the way, besides the start noise."""
        return 0

    @property
    def nfe(self) -> int:
        """Number of network evaluations per sample. An evaluation with the class and one without count as two."""
        return sum(
            self._predictions(step) * self.guidance.evaluations_at(self.times[step]) for step in range(self.num_steps)
        )

    def _predictions(self, step: int) -> int:
        """Return at how many times a step asks for a prediction."""
        return 1

    def require_network(self, network: Network) -> None:
        """Check that a network is of the kind that the sampler and its guidance need.

        Raises:
            ValueError: If it is not.
        """
        name, kind = type(self).__name__, type(network).__name__
        if network.output_field != self.output_field:
            raise ValueError(
                f"{name} needs a network that returns {self.output_field!r}, got {kind}, which returns "
                f"{network.output_field!r}"
            )
        if network.takes_guidance and not self.guidance.is_network_input:
            raise ValueError(f"{kind} takes guidance as an input: {name} needs NetworkGuidance, got {self.guidance}")
        if self.guidance.is_network_input and not network.takes_guidance:
            raise ValueError(
                f"{kind} does not take guidance as an input: {name} needs ClassifierFreeGuidance, got {self.guidance}"
            )

    @torch.no_grad()
    def __call__(self, network: Network, e: Tensor, cond: Condition, noise: Tensor | None = None) -> Tensor:
        """Sample.

        Args:
            network: Flow network or flow map network, as the sampler needs.
            e: Start noise, standard normal ``(B, C, H, W)``.
            cond: Condition of the samples, on the device of ``e``.
            noise: Injected noises, standard normal ``(num_noises, B, C, H, W)`` in the order of use; ``None`` if
                ``num_noises`` is 0.

        Returns:
            Samples ``x (B, C, H, W)``, float64.

        Raises:
            ValueError: If ``noise`` has another shape, the number of labels is not that of the samples, or the network
                is not of the kind that the sampler needs.
        """
        expected = (self.num_noises, *e.shape)
        given = None if noise is None else tuple(noise.shape)
        if given != expected and not (noise is None and self.num_noises == 0):
            raise ValueError(f"noise must have shape (num_noises, B, C, H, W) = {expected} for {self}, got {given}")
        if cond.y.shape != e.shape[:1]:
            raise ValueError(f"cond.y must have one label per sample, shape {(e.shape[0],)}, got {tuple(cond.y.shape)}")
        self.require_network(network)
        noises = e.new_empty(expected, dtype=torch.float64) if noise is None else noise.double()
        return self._sample(Field(self, network, e.dtype, cond), e.double(), noises)

    @abstractmethod
    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        """Walk from the float64 state ``z`` at t = 1 to t = 0."""


class Field:
    """The guided network as a float64 function of state and times."""

    def __init__(self, sampler: Sampler, network: Network, dtype: torch.dtype, cond: Condition) -> None:
        self.sampler = sampler
        self.network = network
        self.dtype = dtype
        self.time_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.cond = sampler.guidance.prepare(cond, self.time_dtype)

    def __call__(self, z: Tensor, t: float, r: float, step: int) -> Tensor:
        """Return ``v`` or ``u`` at state ``z (B, C, H, W)``, float64, from time ``t`` to time ``r``.

        All predictions of a step are guided alike, by the time at which the step starts.
        """

        def predict(z: Tensor, cond: Condition) -> Tensor:
            t_batch, r_batch = (torch.full(z.shape[:1], s, dtype=self.time_dtype, device=z.device) for s in (t, r))
            output = self.network(z.to(self.dtype), t_batch, r_batch, cond, **self.network.sampling_arguments)
            return getattr(output, self.sampler.output_field)

        step_start = self.sampler.times[step]
        return self.sampler.guidance.predict(predict, z, self.cond, self.network.null_label, step_start)
