"""Features of a network whose weights are a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from meanflow.files.remote import local_file, sha256_of
from meanflow.files.torch_file import read_torch_file
from meanflow.metrics.features.extractor import FeatureExtractor, ImageFeatures
from meanflow.metrics.features.images import check_images

# A CPU extracts a batch in parts of at least this size. For larger parts, the operating system hands memory out and
# takes it back for each tensor, which takes as long as the computation. For smaller parts, torch chooses algorithms by
# the number of threads, and the last digits of features depend on that number.
CPU_BATCH_SIZE = 16


class PretrainedFeatures(FeatureExtractor):
    """Features of RGB images by a frozen network.

    Args:
        weights: Path, ``hf://org/repo/file`` or ``https://...`` of the weights, a state dict in a safetensors or torch
            file; ``None`` for the published weights. No code in the file is executed.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        self.weights = weights

    @abstractmethod
    def published_weights(self) -> Path:
        """Return the local copy of the published weights.

        Raises:
            FileNotFoundError: If there is no copy and no download.
        """

    @abstractmethod
    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the network with these weights. Global random numbers stay as they are.

        Raises:
            RuntimeError: If the weights are of another architecture.
            ValueError: If the weights are of another architecture.
        """

    @abstractmethod
    def extract(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images, uint8 ``(B, 3, H, W)``."""

    @cached_property
    def weights_file(self) -> Path:
        """Local copy of the weights.

        Raises:
            FileNotFoundError: If there is no copy and no download.
        """
        try:
            return self.published_weights() if self.weights is None else local_file(self.weights)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} (features.{self.name}.weights=FILE names another file)") from error

    @cached_property
    def network(self) -> nn.Module:
        """The network, in evaluation mode.

        Raises:
            FileNotFoundError: If there are no weights.
            ValueError: If the file is damaged or holds other weights.
        """
        weights = read_state_dict(self.weights_file)
        try:
            network = self.build(weights)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]  # some messages list every tensor
            raise ValueError(
                f"{self.weights_file} does not hold the weights of features {self.name!r}: {reason}"
            ) from error
        return network.float().eval().requires_grad_(False)

    def prepare(self) -> None:
        """Load the weights."""
        _ = self.network

    def weights_sha256(self) -> str:
        """Return the sha256 of the weights file."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return sha256_of(self.weights_file)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images, uint8 ``(B, 1 or 3, H, W)``. Gray images are repeated.

        Raises:
            ValueError: If the images have another shape or type.
        """
        check_images(images, channels=(1, 3))
        self.network.to(images.device)
        images = images.expand(-1, 3, -1, -1)
        num_parts = max(1, len(images) // CPU_BATCH_SIZE) if images.device.type == "cpu" else 1
        parts = images.tensor_split(num_parts)
        with torch.autocast(images.device.type, enabled=False), full_precision():
            return joined([self.extract(part) for part in parts])


def joined(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """Concatenate the features of batches."""
    spatial = [part.spatial for part in parts if part.spatial is not None]
    logits = [part.logits for part in parts if part.logits is not None]
    return ImageFeatures(
        torch.cat([part.pooled for part in parts]),
        torch.cat(spatial) if spatial else None,
        torch.cat(logits) if logits else None,
    )


@contextmanager
def full_precision() -> Iterator[None]:
    """Turn TensorFloat-32 off, which changes the last digits of features and scores."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=False,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors or torch file, contiguous: strides change the last digits of features.

    Raises:
        ValueError: If the file is damaged or holds other objects than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    content = read_torch_file(path)
    if not (isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())):
        raise ValueError(f"{path} holds no weights: it must be a mapping of names to tensors")
    return {key: value.contiguous() for key, value in content.items()}
