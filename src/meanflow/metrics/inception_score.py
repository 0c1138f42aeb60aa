"""The inception score (Salimans et al., 2016, arXiv:1606.03498)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class MeanAndDeviation(NamedTuple):
    """Scores over the parts of a sample.

    Attributes:
        mean: Their mean, float64 scalar.
        std: Their standard deviation with denominator ``num_splits``, float64 scalar.
    """

    mean: Tensor
    std: Tensor


def inception_score(logits: Tensor, num_splits: int = 10, seed: int = 2020) -> MeanAndDeviation:
    """Return mean and deviation, over parts of the images, of ``exp(E KL(p(y | x) || p(y)))``.

    The convention of official iMF: images are shuffled with NumPy's ``RandomState(seed)``, a part has
    ``N // num_splits`` of them and what is left over is dropped, the softmax is taken in float32, all else in float64,
    and 1e-10 is added inside both logarithms. torch-fidelity shuffles alike but divides all images and adds nothing.

    Args:
        logits: Class logits of the images ``(N, K)``.
        num_splits: Number of parts, from 1 to N.
        seed: Seed of the shuffle.

    Raises:
        ValueError: If the logits are not finite or not ``(N, K)``, or there are fewer images than parts.
    """
    _check(logits)
    num_images = len(logits)
    if not 1 <= num_splits <= num_images:
        raise ValueError(f"num_splits must be from 1 to the number of images ({num_images}), got {num_splits}")
    order = torch.from_numpy(np.random.RandomState(seed).permutation(num_images)).to(logits.device)
    p = torch.softmax(logits.float()[order], dim=1).double()
    size = num_images // num_splits
    p = p[: size * num_splits].reshape(num_splits, size, -1)
    marginal = p.mean(dim=1, keepdim=True)
    divergence = (p * (torch.log(p + 1e-10) - torch.log(marginal + 1e-10))).sum(dim=2)
    scores = divergence.mean(dim=1).exp()
    return MeanAndDeviation(scores.mean(), scores.std(correction=0))


class InceptionScore(Metric):
    """Streams class logits of generated images into their inception score.

    All logits are kept. Ranks are joined one after the other, so the parts, and with them the last digits of the score,
    depend on how images were divided among ranks.

    Args:
        num_splits: Number of parts.
        seed: Seed of the shuffle.
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    logits: list[Tensor]

    def __init__(self, num_splits: int = 10, seed: int = 2020, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_splits < 1:
            raise ValueError(f"num_splits must be at least 1, got {num_splits}")
        self.num_splits = num_splits
        self.seed = seed
        self.add_state("logits", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor) -> None:
        """Add the logits ``(B, K)`` of a batch of images.

        Raises:
            ValueError: If they are not finite or not ``(B, K)``.
        """
        _check(logits)
        self.logits.append(logits.detach().float())

    def compute(self) -> MeanAndDeviation:
        """Return the score over the images of all ranks.

        Raises:
            ValueError: If there are fewer images than parts.
        """
        if isinstance(self.logits, list) and not self.logits:
            raise ValueError(f"an inception score of {self.num_splits} parts needs as many images, got 0")
        return inception_score(dim_zero_cat(self.logits), self.num_splits, self.seed)


def _check(logits: Tensor) -> None:
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape (B, K), got {tuple(logits.shape)}")
    if not torch.isfinite(logits).all():
        bad = (~torch.isfinite(logits)).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"logits must be finite, those of sample(s) {bad[:8]} of the batch are not")
