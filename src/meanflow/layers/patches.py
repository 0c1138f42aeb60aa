"""Latents to tokens and back."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from meanflow.dual import Dual, linear_map, make_dual


class PatchEmbedding(nn.Module):
    """Linear embedding of square patches, row by row."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Map ``(B, C, H, W)`` to tokens ``(B, N, hidden_size)``."""
        return linear_map(lambda a: rearrange(a, "b d h w -> b (h w) d"), self._project(x))

    def _project(self, x: Tensor | Dual) -> Tensor | Dual:
        if isinstance(x, Dual):
            weight, stride = self.proj.weight, self.proj.stride
            return make_dual(self.proj(x.primal), lambda: functional.conv2d(x.tangent, weight, stride=stride))
        return self.proj(x)


def unpatchify(x: Tensor | Dual, patch_size: int, grid_size: int) -> Tensor | Dual:
    """Map tokens ``(B, N, patch_size ** 2 * C)``, channel fastest, to ``(B, C, H, W)``."""
    pattern = "b (h w) (p q c) -> b c (h p) (w q)"
    return linear_map(lambda a: rearrange(a, pattern, h=grid_size, p=patch_size, q=patch_size), x)
