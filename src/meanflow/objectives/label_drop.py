"""Dropping labels: samples with the null label teach a network the unconditional velocity."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override


class IndependentLabelDrop:
    """Drops each label with the same probability, independently of the other labels.

    Args:
        prob_drop_label: Probability that a label is dropped, from 0 to 1.

    Raises:
        ValueError: If ``prob_drop_label`` is out of range.
    """

    def __init__(self, prob_drop_label: float = 0.1) -> None:
        if not 0 <= prob_drop_label <= 1:
            raise ValueError(f"prob_drop_label must be from 0 to 1, got {prob_drop_label}")
        self.prob_drop_label = prob_drop_label

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Draw whether the label of a sample is dropped, bool ``(num_samples,)``."""
        return self.order(torch.rand(num_samples, generator=generator) < self.prob_drop_label)

    def order(self, dropped: Tensor) -> Tensor:
        """Return the drops ``(B,)`` in the order of the samples that they belong to."""
        return dropped


class LeadingLabelDrop(IndependentLabelDrop):
    """Draws how many labels to drop as ``IndependentLabelDrop`` does, then drops the labels of the first samples.

    The official iMF code does so. ``PartlyEqualPair`` gives the first samples of a batch ``r = t``: usually all dropped
    labels belong to samples with ``r = t``.

    Args:
        prob_drop_label: Expected share of dropped labels, from 0 to 1.
    """

    @override
    def order(self, dropped: Tensor) -> Tensor:
        return dropped.sort(descending=True).values


def drop_labels(y: Tensor, dropped: Tensor, null_label: int) -> Tensor:
    """Return the labels with the null label where the label is dropped.

    Args:
        y: Labels, int64 ``(B,)``.
        dropped: Whether the label of a sample is dropped, bool ``(B,)``, on any device.
        null_label: The label that stands for "no class".
    """
    return y.masked_fill(dropped.to(y.device, non_blocking=True), null_label)
