"""The inception score (Salimans et al., 2016, arXiv:1606.03498)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.image_metric import ImageMetric
from meanflow.metrics.kept_features import KeptFeatures
from meanflow.metrics.reference import Reference


class MeanAndDeviation(NamedTuple):
    """Mean and standard deviation of the scores of the parts of a sample.

    Attributes:
        mean: Mean, float64 scalar.
        std: Standard deviation, float64 scalar. The variance has the denominator ``num_splits``.
    """

    mean: Tensor
    std: Tensor


def inception_score(logits: Tensor, num_splits: int = 10, seed: int = 2020) -> MeanAndDeviation:
    """Return mean and deviation, over parts of the images, of ``exp(E KL(p(y | x) || p(y)))``.

    The score follows the official iMF code. NumPy's ``RandomState(seed)`` shuffles the images. Each part has
    ``N // num_splits`` images, and the last ``N % num_splits`` images are dropped. The softmax is float32, and all
    other computations are float64. 1e-10 is added inside both logarithms.

    torch-fidelity shuffles in the same way, drops no image and adds nothing inside the logarithms. torchmetrics
    shuffles with torch's global generator. Its score is another one each time, and it changes the random numbers of a
    training run.

    Args:
        logits: Class logits of the images ``(N, K)``.
        num_splits: Number of parts, from 1 to N.
        seed: Seed of the shuffle.

    Raises:
        ValueError: If the logits are not finite, do not have the shape ``(N, K)``, or are fewer than the parts.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape (N, K), got {tuple(logits.shape)}")
    if not torch.isfinite(logits).all():
        raise ValueError("logits must be finite")
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


class InceptionScore(ImageMetric):
    """Inception score of generated images. The score needs no reference.

    Args:
        extractor: Name of a feature extractor that has logits.
        num_splits: Number of parts.
        seed: Seed of the shuffle.
    """

    def __init__(self, extractor: str = "inception", num_splits: int = 10, seed: int = 2020) -> None:
        if num_splits < 1:
            raise ValueError(f"num_splits must be at least 1, got {num_splits}")
        self.extractor = extractor
        self.num_splits = num_splits
        self.seed = seed
        self.higher_is_better = {"is_mean": True, "is_std": None}
        self.kept = KeptFeatures()

    def set_reference(self, reference: Reference) -> None:
        """Do nothing, because the score needs no reference."""

    def update(self, features: ImageFeatures, indices: Tensor) -> None:
        """Add the logits of generated images.

        Args:
            features: Features with logits ``(B, K)``.
            indices: Number of each image in the whole sample, int64 ``(B,)``.

        Raises:
            ValueError: If the extractor has no logits, or a logit is not finite.
        """
        if features.logits is None:
            raise ValueError(f"an inception score needs class logits, but {self.extractor!r} has none")
        self.kept.update(features.logits, indices)

    def compute(self) -> dict[str, float]:
        """Return mean and deviation by name, over the images of all ranks. All ranks must call this method.

        The images are put in the order of their numbers, then shuffled. The score therefore does not depend on the
        number of ranks.

        Raises:
            ValueError: If there are fewer images than parts, or an image was added twice.
        """
        score = inception_score(self.kept.gather(), self.num_splits, self.seed)
        return {"is_mean": score.mean.item(), "is_std": score.std.item()}

    def reset(self) -> None:
        """Forget the images."""
        self.kept.reset()
