"""Frozen image encoders whose patch tokens a flow network is aligned with (REPA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PatchTokenEncoder(nn.Module):
    """Patch tokens of a timm vision transformer after its last norm, e.g. DINOv2.

    The position embedding is resampled to the grid of the flow network: token i of both looks at the same patch.

    Args:
        name: Name of a timm vision transformer.
        grid_size: Tokens per side of the flow network: 16 for 256 pixels, 32 for 512.
        pretrained: Whether timm fetches the trained weights (or takes them from its cache).
        mean: Mean of the model's training images, per channel.
        std: Standard deviation of the model's training images, per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = "vit_base_patch14_dinov2.lvd142m",
        grid_size: int = 16,
        pretrained: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.name = name
        self.grid_size = grid_size
        self.pretrained = pretrained
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
        self.model: Any = None

    def load(self) -> Any:
        """Return the encoder; it is built at the first call, so that composing a configuration needs no weights."""
        if self.model is None:
            import timm  # a second of import time that only alignment needs

            model = timm.create_model(self.name, pretrained=self.pretrained, num_classes=0, dynamic_img_size=True)
            self.model = model.eval().requires_grad_(False).to(self.mean.device)
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        """Encode images, uint8 ``(B, 3, H, W)``, as patch tokens ``(B, grid_size ** 2, dim)``, float32."""
        model = self.load()
        side = self.grid_size * model.patch_embed.patch_size[0]
        pixels = (images.to(self.mean.device).float() / 255 - self.mean) / self.std
        pixels = functional.interpolate(pixels, size=(side, side), mode="bicubic")
        return model.forward_features(pixels)[:, model.num_prefix_tokens :].float()
