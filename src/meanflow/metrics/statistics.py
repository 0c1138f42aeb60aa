"""Mean and covariance of features, accumulated batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from meanflow.distributed import gather_tensors


class Gaussian(NamedTuple):
    """First two moments of features.

    Attributes:
        mu: Mean ``(D,)``, float64.
        sigma: Covariance ``(D, D)``, float64.
        num_samples: Number of samples; ``None`` if unknown.
    """

    mu: Tensor
    sigma: Tensor
    num_samples: int | None = None


class FeatureStatistics(Metric):
    """Computes mean and covariance of features ``(B, D)`` batch by batch, in float64, on the device of the metric.

    The state is (count, mean, scatter about the mean). The pairwise formula of Chan, Golub and LeVeque (1983) merges
    batches and ranks. The formula loses no digits if the mean is large against the deviation. torchmetrics 1.9 sums
    products in float64, and loses these digits. torch-fidelity 0.4 computes the covariance in float64 and the mean in
    float32. A merge over ranks gathers one tensor. A rank without samples contributes nothing.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = True
    moments: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{"dist_sync_fn": gather_moments} | kwargs)
        # Rows: D rows of scatter, the mean, the count (repeated). D is known from the first batch on.
        self.add_state("moments", default=torch.zeros(2, 0, dtype=torch.float64), dist_reduce_fx=merge_moments)

    def update(self, features: Tensor) -> None:
        """Add a batch of features ``(B, D)``.

        Raises:
            ValueError: If the features are not finite, are not ``(B, D)``, or have another ``D`` than before.
        """
        if features.ndim != 2:
            raise ValueError(f"features must have shape (B, D), got {tuple(features.shape)}")
        known = self.moments.shape[1]
        if known and features.shape[1] != known:
            raise ValueError(f"features must have {known} dimensions as before, got {features.shape[1]}")
        if len(features) == 0:
            return
        features = features.detach().to(self.moments.device, torch.float64)
        if not torch.isfinite(features).all():
            bad = (~torch.isfinite(features)).any(dim=1).nonzero().flatten().tolist()
            raise ValueError(f"features must be finite, those of sample(s) {bad[:8]} of the batch are not")
        mean = features.mean(dim=0)
        centered = features - mean
        self._add(torch.cat([centered.T @ centered, mean[None], torch.full_like(mean, len(features))[None]]))

    def merge(self, moments: Tensor) -> None:
        """Add the samples of another instance by its ``moments``. An instance without samples copies them exactly.

        Raises:
            ValueError: If the moments have another number of dimensions.
        """
        known = self.moments.shape[1]
        if known and moments.shape[1] != known:
            raise ValueError(f"moments must have {known} dimensions as before, got {moments.shape[1]}")
        self._update_count += 1  # as torchmetrics counts an update
        self._computed = None
        self._add(moments.to(self.moments.device))

    def _add(self, moments: Tensor) -> None:
        known = self.moments.shape[1]
        self.moments = merge_moments(torch.stack([self.moments, moments])) if known else moments

    def compute(self) -> Gaussian:
        """Return the mean and the covariance with denominator N - 1.

        Raises:
            ValueError: If there are fewer than two samples.
        """
        num_samples = self.num_samples
        if num_samples < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {num_samples}")
        return Gaussian(self.moments[-2].clone(), self.moments[:-2] / (num_samples - 1), num_samples)

    @property
    def num_samples(self) -> int:
        """Number of samples so far, on this rank."""
        return int(self.moments[-1, 0]) if self.moments.shape[1] else 0


def merge_moments(parts: Tensor) -> Tensor:
    """Merge moments ``(K, D + 2, D)`` of K disjoint sets of samples into the moments ``(D + 2, D)`` of their union."""
    counts = parts[:, -1:, :1]  # (K, 1, 1)
    total = counts.sum(dim=0)
    mean = (counts * parts[:, -2:-1]).sum(dim=0) / total.clamp(min=1)
    offsets = (counts.sqrt() * (parts[:, -2:-1] - mean)).squeeze(1)  # (K, D)
    scatter = parts[:, :-2].sum(dim=0) + offsets.T @ offsets
    return torch.cat([scatter, mean, total.expand_as(mean)])


def gather_moments(moments: Tensor, group: torch.distributed.ProcessGroup | None = None) -> list[Tensor]:
    """Gather the moments of all ranks that have samples, or of one rank if no rank has samples."""
    gathered = gather_tensors(moments, group)
    return [part for part in gathered if part.numel()] or gathered[:1]
