"""Features of all images, for metrics that need the features themselves and not only their moments."""

from __future__ import annotations

import torch
from torch import Tensor

from meanflow.distributed import communication_device, gather_tensors
from meanflow.metrics.features.images import require_finite


class KeptFeatures:
    """Keeps features in host memory as float32. 2,048 features of 50,000 images take 400 MB.

    Attributes:
        device: Device of the features that were added last. Metrics compute on this device.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all features."""
        self.features: list[Tensor] = []
        self.indices: list[Tensor] = []
        self.device = communication_device()

    @property
    def num_dimensions(self) -> int | None:
        """Number of features per image; ``None`` before features are added."""
        return self.features[0].shape[1] if self.features else None

    def update(self, features: Tensor, indices: Tensor) -> None:
        """Add the features of images.

        Args:
            features: Features ``(B, D)``.
            indices: Number of each image, int64 ``(B,)``.

        Raises:
            ValueError: If the shapes do not agree, ``D`` is not as before, or a feature is not finite.
        """
        require_finite(features, indices)
        if self.num_dimensions not in (None, features.shape[1]):
            raise ValueError(f"features must have {self.num_dimensions} dimensions as before, got {features.shape[1]}")
        if len(features) == 0:
            return
        self.device = features.device
        # A copy, even on the CPU. A view would keep the memory of the whole tensor that it is a view of.
        self.features.append(features.detach().to("cpu", torch.float32, copy=True))
        self.indices.append(indices.to("cpu", torch.int64, copy=True))

    def gather(self) -> Tensor:
        """Return the features of all ranks ``(N, D)``, in the order of the image numbers.

        All ranks must call this method. The order depends neither on the number of ranks nor on the batches.

        Raises:
            ValueError: If there are no features, or an image was added twice.
        """
        features = torch.cat(self.features) if self.features else torch.empty(0, 0)
        indices = torch.cat(self.indices) if self.indices else torch.empty(0, dtype=torch.int64)
        parts = [part for part in gather_tensors(features) if part.numel()]
        order = torch.cat(gather_tensors(indices)).sort()
        if not parts:
            raise ValueError("there are no images")
        repeated = order.values[1:][order.values.diff() == 0]
        if len(repeated):
            raise ValueError(f"every image counts once, image(s) {repeated.unique().tolist()[:8]} came more often")
        return torch.cat(parts)[order.indices]
