"""Samplers that add noise on the way. They need to know the interpolant that their network was trained on."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from meanflow.interpolant import CosinePath, Interpolant, LinearPath
from meanflow.samplers.sampler import Sampler

INTERPOLANTS: dict[str, type[Interpolant]] = {"linear": LinearPath, "cosine": CosinePath}


class InterpolantSampler(Sampler):
    """A sampler that has an interpolant.

    Args:
        num_steps: Number of steps, at least 1.
        interpolant: The interpolant that the network was trained on, or its name: ``linear`` or ``cosine``.
        arguments: The remaining arguments of the sampler.
    """

    def __init__(self, num_steps: int, interpolant: str | Interpolant = "linear", **arguments: Any) -> None:
        super().__init__(num_steps, **arguments)
        if isinstance(interpolant, str):
            if interpolant not in INTERPOLANTS:
                raise ValueError(f"interpolant must be one of {sorted(INTERPOLANTS)}, got {interpolant!r}")
            interpolant = INTERPOLANTS[interpolant]()
        self.interpolant = interpolant

    @property
    @override
    def config(self) -> dict[str, Any]:
        names = {cls: name for name, cls in INTERPOLANTS.items()}
        return super().config | {"interpolant": names.get(type(self.interpolant), self.interpolant)}
