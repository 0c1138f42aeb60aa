"""The kernel distance between sets of features (KID: Bińkowski et al., 2018, arXiv:1801.01401)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from meanflow.metrics.feature_comparison import FeatureComparison


def kernel_distances(
    generated: Tensor,
    reference: Tensor,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> Tensor:
    """Return unbiased estimates of the squared maximum mean discrepancy from random subsets, in float64.

    The kernel is ``(x . y / D + 1)^3``. torch-fidelity draws the same subsets if it gets the generated images first.
    torch-fidelity sums kernels in float32 and subtracts the sums. About two digits of a distance of 1e-5 remain. This
    function computes in float64, on any device.

    Args:
        generated: Features of generated images ``(N, D)``. Their device computes.
        reference: Features of real images ``(M, D)``.
        num_subsets: Number of estimates, at least 1.
        subset_size: Number of images of each kind in a subset, from 2 to the smaller of N and M. They are drawn without
            replacement.
        seed: Seed of the draws, for NumPy's ``RandomState``.

    Returns:
        The estimates ``(num_subsets,)``, on the CPU. If the distributions are equal, the mean of an estimate is 0, and
        an estimate can be negative.

    Raises:
        ValueError: If a number is out of its range.
    """
    smaller = min(len(generated), len(reference))
    if not 2 <= subset_size <= smaller:
        raise ValueError(f"subset_size must be from 2 to the number of images ({smaller}), got {subset_size}")
    if num_subsets < 1:
        raise ValueError(f"num_subsets must be at least 1, got {num_subsets}")
    random = np.random.RandomState(seed)

    def draw(features: Tensor) -> Tensor:
        chosen = torch.from_numpy(random.choice(len(features), subset_size, replace=False))
        return features[chosen.to(features.device)].to(generated.device, torch.float64)

    return torch.stack([_squared_discrepancy(draw(generated), draw(reference)) for _ in range(num_subsets)]).cpu()


def _squared_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    return _mean_of_pairs(_kernel(x, x)) + _mean_of_pairs(_kernel(y, y)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: Tensor) -> Tensor:
    """Return the mean over pairs of different images. Pairs of an image with itself would bias the estimate."""
    size = len(kernel)
    return (kernel.sum() - kernel.trace()) / (size * (size - 1))


class KernelDistance(FeatureComparison):
    """Kernel distance to real images: mean and standard deviation over random subsets.

    If there are fewer than ``subset_size`` generated or real images, subsets are as large as possible, and a warning
    gives their size. Smaller subsets leave the mean unbiased and make it noisier. Deviations for different subset sizes
    cannot be compared.

    Args:
        extractor: Name of the feature extractor.
        name: Name of the mean. The name of the deviation is ``<name>_std``.
        num_subsets: Number of subsets.
        subset_size: Number of images of each kind in a subset, at most.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        extractor: str,
        name: str = "kid",
        num_subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 2020,
    ) -> None:
        super().__init__(extractor)
        self.name = name
        self.num_subsets = num_subsets
        self.subset_size = subset_size
        self.seed = seed
        self.higher_is_better = {name: False, f"{name}_std": None}
        self._warned = False

    def compare(self, generated: Tensor, reference: Tensor) -> dict[str, float]:
        """Return mean and standard deviation by name. The variance has the denominator ``num_subsets``.

        Raises:
            ValueError: If there are fewer than two generated or fewer than two real images.
        """
        size = min(self.subset_size, len(generated), len(reference))
        if size < self.subset_size and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name} from subsets of {size} images in place of {self.subset_size} ({len(generated)} "
                f"generated, {len(reference)} in {self.reference_name}): the mean is unbiased but noisier, and "
                f"{self.name}_std cannot be compared with that of larger subsets",
                stacklevel=3,
            )
        estimates = kernel_distances(generated, reference, self.num_subsets, size, self.seed)
        return {self.name: estimates.mean().item(), f"{self.name}_std": estimates.std(correction=0).item()}
