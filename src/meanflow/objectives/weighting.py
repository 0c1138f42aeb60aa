"""Weightings: how the error of each sample and its learned log-variance become a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override


class Weighting(ABC):
    """Turns the error of each sample into a loss.

    Attributes:
        needs_logvar: Whether the network must learn the log-variance of its error.
    """

    needs_logvar: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        """Return losses, ``(B,)`` unless the subclass states another shape; training minimizes their mean.

        Args:
            error: Error of each sample ``(B,)``, at least 0.
            logvar: Log-variance of the error of each sample ``(B,)``; 0 where the network learns none.
        """


class Unweighted(Weighting):
    """The error itself. The log-variance is not used."""

    @override
    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        return error


class PerSampleLogVariance(Weighting):
    """``log(error_i / exp(logvar_i) + eps) + logvar_i``: each error meets the log-variance of its own sample.

    Args:
        eps: Added inside the logarithm; bounds the gradient of small errors.
    """

    needs_logvar = True

    def __init__(self, eps: float = 0.01) -> None:
        self.eps = eps

    @override
    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        return torch.log(error * torch.exp(-logvar) + self.eps) + logvar


class AllPairsLogVariance(PerSampleLogVariance):
    """``PerSampleLogVariance`` over all pairs: the log-variance of sample i weighs the error of sample j.

    The losses have shape ``(B, B)``, with entry ``[i, j]`` for log-variance i and error j. The official DMF code
    computes this loss by broadcasting shapes (B, 1, 1, 1) and (B,).
    """

    @override
    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        return super().__call__(error[None, :], logvar[:, None])


class AdaptiveWeight(Weighting):
    """``error / stop_gradient(error + eps) ** p`` (MeanFlow, section 4.3). The log-variance is not used.

    With p = 1 every sample pulls equally hard, however large its error is.

    Args:
        p: Exponent, at least 0; 0 is the plain error.
        eps: Added to the error in the denominator, above 0.
    """

    def __init__(self, p: float = 1.0, eps: float = 0.01) -> None:
        if p < 0 or eps <= 0:
            raise ValueError(f"p must be at least 0 and eps above 0, got p={p}, eps={eps}")
        self.p = p
        self.eps = eps

    @override
    def __call__(self, error: Tensor, logvar: Tensor) -> Tensor:
        return error / (error.detach() + self.eps) ** self.p
