"""Interpolants, the paths between data and noise: ``z_t = alpha(t) x + sigma(t) e``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override


def expand_times(t: Tensor, like: Tensor) -> Tensor:
    """Return times ``(B,)`` with trailing unit axes, which broadcast over ``like (B, ...)``."""
    return t.reshape(t.shape[0], *(1,) * (like.ndim - 1))


class Interpolant(ABC):
    """A path from data at t = 0 to noise at t = 1."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the weight of the data, 1 at t = 0 and 0 at t = 1, in the shape of ``t``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the weight of the noise, 0 at t = 0 and 1 at t = 1, in the shape of ``t``."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """Return the derivative of ``alpha`` in t."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """Return the derivative of ``sigma`` in t."""

    def state(self, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """Return the state ``z_t (B, ...)`` for data and noise ``(B, ...)`` at times ``(B,)``."""
        t = expand_times(t, x)
        return self.alpha(t) * x + self.sigma(t) * e

    def velocity(self, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``v = d z_t / d t (B, ...)`` for data and noise ``(B, ...)`` at times ``(B,)``."""
        t = expand_times(t, x)
        return self.d_alpha(t) * x + self.d_sigma(t) * e


class LinearPath(Interpolant):
    """Straight path ``z_t = (1 - t) x + t e`` with velocity ``e - x`` (rectified flow, SiT "linear")."""

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return t

    @override
    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    @override
    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class CosinePath(Interpolant):
    """Variance-preserving path ``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)`` (SiT "cosine")."""

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2)

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    @override
    def d_alpha(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(t * math.pi / 2)

    @override
    def d_sigma(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(t * math.pi / 2)
