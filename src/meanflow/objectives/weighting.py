"""How the mean squared error of each sample and its learned log-variance become a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Weighting(ABC):
    """A loss from errors and log-variances, both ``(B,)``."""

    @abstractmethod
    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        """Return losses whose mean over all entries is minimised."""


class Unweighted(Weighting):
    """The mean squared error itself; the log-variance is not used."""

    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        """Return ``error``, ``(B,)``."""
        return error


class PerSampleLogVariance(Weighting):
    """``log(error_i / exp(logvar_i) + eps) + logvar_i``: each error meets the log-variance of its own sample.

    Args:
        eps: Added inside the logarithm; bounds the gradient of small errors.
    """

    def __init__(self, eps: float = 0.01) -> None:
        self.eps = eps

    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        """Return losses ``(B,)``."""
        return torch.log(error * torch.exp(-logvar) + self.eps) + logvar


class AdaptiveWeight:
    """``error / stop_gradient(error + eps) ** p`` (MeanFlow, section 4.3); p = 1 gives every sample the same pull.

    Args:
        p: Exponent, at least 0; 0 is the plain error.
        eps: Added to the error in the denominator, above 0.
    """

    def __init__(self, p: float = 1.0, eps: float = 0.01) -> None:
        if p < 0 or eps <= 0:
            raise ValueError(f"p must be at least 0 and eps above 0, got p={p}, eps={eps}")
        self.p = p
        self.eps = eps

    def __call__(self, error: Tensor) -> Tensor:
        """Return losses ``(B,)`` for errors ``(B,)``."""
        return error / (error.detach() + self.eps) ** self.p


class AllPairsLogVariance(PerSampleLogVariance):
    """The same for every pair: the log-variance of sample i meets the error of sample j.

    This is what the official DMF code computes, through the broadcasting of shapes (B, 1, 1, 1) and (B,).
    """

    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        """Return losses ``(B, B)``, entry ``[i, j]`` for log-variance i and error j."""
        return super().__call__(error[None, :], logvar[:, None])
