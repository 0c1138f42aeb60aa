"""What every sampler is: settings, a time grid, and a walk along it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from meanflow.samplers.guidance import Guidance
from meanflow.samplers.schedule import time_grid
from meanflow.types import Condition, Network


class Sampler(ABC):
    """Walks from noise at t = 1 to data at t = 0.

    The state is float64. The network sees it in the data type of the start noise, and times in float32 (float64 for
    float64 noise).

    Args:
        num_steps: Number of steps, at least 1.
        shift: Time shift, above 0; 1 leaves the times uniform (``schedule.time_grid``).
        omega: Guidance scale, at least 1; 1 is no guidance.
        t_min: Lower end of the guidance interval; a step is guided if the time it starts at lies in [t_min, t_max].
        t_max: Upper end of the guidance interval.

    Raises:
        ValueError: If an argument is out of range.
    """

    output_field: ClassVar[str]  # what the sampler reads from the network's output: "v" of a flow, "u" of a flow map

    def __init__(
        self, num_steps: int, shift: float = 1.0, omega: float = 1.0, t_min: float = 0.0, t_max: float = 1.0
    ) -> None:
        self.num_steps = num_steps
        self.shift = shift
        self.guidance = Guidance(omega, t_min, t_max)
        self.times: list[float] = time_grid(num_steps, shift).tolist()

    @property
    def config(self) -> dict[str, Any]:
        """Name and arguments, from which ``samplers.build`` makes this sampler again."""
        return {
            "name": type(self).__name__,
            "num_steps": self.num_steps,
            "shift": self.shift,
            "omega": self.guidance.omega,
            "t_min": self.guidance.t_min,
            "t_max": self.guidance.t_max,
        }

    def replace(self, **arguments: Any) -> Self:
        """Return a sampler with some arguments replaced, ``replace(num_steps=4)``."""
        current = {key: value for key, value in self.config.items() if key != "name"}
        unknown = sorted(arguments.keys() - current.keys())
        if unknown:
            raise ValueError(f"{type(self).__name__} has no argument {unknown[0]!r}; it has {sorted(current)}")
        return type(self)(**(current | arguments))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.config.items() if key != "name")
        return f"{type(self).__name__}({arguments})"

    @property
    def num_noises(self) -> int:
        """Number of noises that are injected on the way, besides the start noise."""
        return 0

    @property
    def nfe(self) -> int:
        """Number of network evaluations per sample; a guided one counts twice (with and without the class)."""
        return sum(self._evaluations(i) * (1 + self._is_guided(i)) for i in range(self.num_steps))

    def _evaluations(self, step: int) -> int:
        """Number of times at which a step evaluates the network."""
        return 1

    def _is_guided(self, step: int) -> bool:
        return self.guidance.applies_at(self.times[step])

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
            ValueError: If ``noise`` has not that shape, the labels are not one per sample, or the network is not of
                the kind that the sampler needs.
        """
        expected = (self.num_noises, *e.shape)
        given = None if noise is None else tuple(noise.shape)
        if given != expected and not (noise is None and self.num_noises == 0):
            raise ValueError(f"noise must have shape (num_noises, B, C, H, W) = {expected} for {self}, got {given}")
        if cond.y.shape != e.shape[:1]:
            raise ValueError(f"cond.y must have one label per sample, shape {(e.shape[0],)}, got {tuple(cond.y.shape)}")
        noises = e.new_empty(expected, dtype=torch.float64) if noise is None else noise.double()
        return self._sample(Field(self, network, e.dtype, cond), e.double(), noises)

    @abstractmethod
    def _sample(self, field: Field, z: Tensor, noise: Tensor) -> Tensor:
        """Walk from the float64 state ``z`` at t = 1 to t = 0."""


class Field:
    """The network as a float64 function of state and times, guided or not."""

    def __init__(self, sampler: Sampler, network: Network, dtype: torch.dtype, cond: Condition) -> None:
        self.sampler = sampler
        self.network = network
        self.dtype = dtype
        self.time_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.cond = cond

    def __call__(self, z: Tensor, t: float, r: float, guided: bool) -> Tensor:
        """Return ``v`` or ``u`` at state ``z (B, C, H, W)``, float64, from time ``t`` to time ``r``."""

        def predict(z: Tensor, cond: Condition) -> Tensor:
            t_batch, r_batch = (torch.full(z.shape[:1], s, dtype=self.time_dtype, device=z.device) for s in (t, r))
            output = self.network(z.to(self.dtype), t_batch, r_batch, cond)
            prediction = getattr(output, self.sampler.output_field, None)
            if prediction is None:
                raise ValueError(
                    f"{type(self.sampler).__name__} needs a network that returns {self.sampler.output_field!r}, "
                    f"got {type(output).__name__} with {list(output._fields)}"
                )
            return prediction

        if guided:
            return self.sampler.guidance.predict(predict, z, self.cond, self.network.null_label)
        return predict(z, self.cond).double()
