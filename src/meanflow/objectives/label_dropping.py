"""Replacing labels by the null label, so that a network also learns the unconditional velocity."""

from __future__ import annotations

import torch
from torch import Tensor


def check_probability(key: str, value: float) -> float:
    """Return ``value`` if it is a probability.

    Raises:
        ValueError: Otherwise, naming ``key``.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{key} must be from 0 to 1, got {value}")
    return value


class IndependentLabelDrop:
    """Drops every label with the same probability, one independently of the other.

    Args:
        prob_drop_label: That probability.
    """

    def __init__(self, prob_drop_label: float = 0.1) -> None:
        self.prob_drop_label = check_probability("prob_drop_label", prob_drop_label)

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Draw which labels are dropped, bool ``(num_samples,)``."""
        return self.order(torch.rand(num_samples, generator=generator) < self.prob_drop_label)

    def order(self, dropped: Tensor) -> Tensor:
        """Return which samples the drops fall on."""
        return dropped


class LeadingLabelDrop(IndependentLabelDrop):
    """Drops as many labels, but those of the first samples of the batch, as the official iMF code does.

    Those are all samples with r = t, as long as fewer labels are dropped than there are such samples.
    """

    def order(self, dropped: Tensor) -> Tensor:
        """Return the drops moved to the front."""
        return dropped.sort(descending=True).values


def drop_labels(y: Tensor, dropped: Tensor, null_label: int) -> Tensor:
    """Return the labels ``(B,)`` with the null label where ``dropped (B,)`` is true."""
    return y.masked_fill(dropped.to(y.device, non_blocking=True), null_label)
