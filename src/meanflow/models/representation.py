"""Frozen image encoders for representation alignment (REPA): a flow network learns to predict their patch tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PatchTokenEncoder(nn.Module):
    """Encodes images as the patch tokens of a timm vision transformer such as DINOv2, after its last norm.

    The encoder resamples its position embedding to the grid of the flow network. Token i of the encoder and token i of
    the flow network thus see the same patch.

    Args:
        name: Name of a timm vision transformer.
        grid_size: Tokens per side of the flow network: 16 for 256 pixels, 32 for 512.
        pretrained: Whether to use trained weights. timm downloads them or takes them from its cache.
        mean: Mean of the encoder's training images per channel, for pixels in [0, 1].
        std: Standard deviation of the encoder's training images per channel, for pixels in [0, 1].
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
        self.model: VisionTransformer | None = None

    def load(self) -> VisionTransformer:
        """Return the encoder. The first call builds it: composing a configuration needs no weights."""
        if self.model is None:
            import timm  # importing timm takes a second, which only alignment needs

            model = timm.create_model(self.name, pretrained=self.pretrained, num_classes=0, dynamic_img_size=True)
            model.eval().requires_grad_(False).to(self.mean.device)
            self.model = cast("VisionTransformer", model)
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        """Encode images, uint8 ``(B, 3, H, W)``, as patch tokens ``(B, grid_size ** 2, dim)``, float32."""
        model = self.load()
        side = self.grid_size * model.patch_embed.patch_size[0]
        pixels = (images.to(self.mean.device).float() / 255 - self.mean) / self.std
        pixels = functional.interpolate(pixels, size=(side, side), mode="bicubic")
        return model.forward_features(pixels)[:, model.num_prefix_tokens :].float()
