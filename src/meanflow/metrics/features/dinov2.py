"""DINOv2 (Oquab et al., 2023, arXiv:2304.07193): the features of FD-DINOv2 (Stein et al., 2023, arXiv:2306.04675).

The EDM2 and DMF programs (``calculate_metrics.py``) use the same pre-processing and the same network. Their reference
files hold features of the hub model ``dinov2_vitl14``. torch resizes the images with antialiasing and does not clamp
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meanflow.files.remote import local_file
from meanflow.metrics.features.extractor import ImageFeatures
from meanflow.metrics.features.pretrained import PretrainedFeatures

SIZE = 224
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The official model adds this to the new grid size before it divides by the old one (``interpolate_offset``).
OFFSET = 0.1


class DINOv2Features(PretrainedFeatures):
    """Class token after the last norm: 1,024 numbers of ViT-L/14.

    The network takes RGB images of 224 x 224 pixels, normalized with mean and standard deviation of ImageNet. Other
    sizes are resized by antialiased bicubic interpolation. The channel of a gray image is repeated.

    Args:
        weights: Path or address of the weights: the official ``dinov2_vitl14_pretrain.pth`` or timm's file. ``None``
            takes timm's file on the Hugging Face hub.
        model: Name of a timm vision transformer without register tokens. Published distances use the default.
    """

    name: ClassVar[str] = "dinov2"

    def __init__(self, weights: str | Path | None = None, model: str = "vit_large_patch14_dinov2.lvd142m") -> None:
        super().__init__(weights)
        self.model = model

    def published_weights(self) -> Path:
        """Return the local copy of timm's file. A missing copy is downloaded from the hub.

        Raises:
            FileNotFoundError: If there is no copy and the download fails.
        """
        return local_file(f"hf://timm/{self.model}/model.safetensors")

    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the timm model for images of 224 x 224 pixels with these weights.

        Raises:
            RuntimeError: If the weights are of another architecture.
            ValueError: If the weights have no square position embedding.
        """
        import timm

        with torch.device("meta"):  # no random numbers for weights that are replaced
            network = timm.create_model(self.model, pretrained=False, num_classes=0, img_size=SIZE)
        # The official file also has the token that hides patches in training. All other names equal timm's names.
        weights = {key: value.float() for key, value in weights.items() if key != "mask_token"}
        if "pos_embed" not in weights:
            raise ValueError("it has no position embedding 'pos_embed'")
        grid_size = math.isqrt(network.get_parameter("pos_embed").shape[1] - 1)
        weights["pos_embed"] = resample_position_embedding(weights["pos_embed"], grid_size)
        network.load_state_dict(weights, assign=True)
        return network

    def extract(self, images: Tensor) -> ImageFeatures:
        """Extract the features of images, uint8 ``(B, 3, H, W)``."""
        return ImageFeatures(pooled=self.network(self.preprocess(images)))

    @staticmethod
    def preprocess(images: Tensor) -> Tensor:
        """Return the network's input, float32 ``(B, 3, 224, 224)`` with mean about 0 and deviation about 1."""
        pixels = F.interpolate(images.float(), size=(SIZE, SIZE), mode="bicubic", antialias=True) / 255
        mean, std = (pixels.new_tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels - mean) / std


def resample_position_embedding(embedding: Tensor, grid_size: int) -> Tensor:
    """Resample a position embedding to another grid as the official model does.

    The official model interpolates bicubically without antialiasing, by the factor ``(grid_size + 0.1) / old``. The
    sampled points lie slightly closer together than the new grid, and nearer to its first corner. timm interpolates
    with antialiasing, by the factor ``grid_size / old``.

    Args:
        embedding: Embedding of the class token and the patches, ``(1, 1 + old ** 2, D)``.
        grid_size: Number of patches along a side.

    Returns:
        The embedding of the class token and the new patches, ``(1, 1 + grid_size ** 2, D)``.

    Raises:
        ValueError: If the patches form no square.
    """
    num_patches = embedding.shape[1] - 1
    old = math.isqrt(num_patches)
    if old**2 != num_patches:
        raise ValueError(f"pos_embed {tuple(embedding.shape)} is not that of a class token and a square of patches")
    if old == grid_size:
        return embedding
    grid = embedding[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    factor = (grid_size + OFFSET) / old
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
