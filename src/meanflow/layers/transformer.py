"""Attention and perceptron layers of a transformer block, under the names of DiT and SiT."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from meanflow.attention import get_attention
from meanflow.dual import Dual, linear_map
from meanflow.layers.activations import GELU
from meanflow.layers.linear import Linear
from meanflow.layers.normalization import RMSNorm


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        hidden_size: Width of the tokens; a multiple of ``num_heads``.
        num_heads: Number of heads.
        qk_norm: Whether queries and keys are RMS-normalized per head.
        attention: Name of the attention backend.

    Raises:
        ValueError: If ``hidden_size`` is not a multiple of ``num_heads``, or there is no such backend.
        ImportError: If the backend needs a package that is not installed.
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool = False, attention: str = "sdpa") -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads ({num_heads}), got {hidden_size}")
        self.num_heads = num_heads
        self.attention = get_attention(attention)
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.q_norm = RMSNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.proj = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Attend over tokens ``(B, N, hidden_size)``."""
        pattern = "b n (three heads d) -> three b heads n d"
        qkv = linear_map(lambda a: rearrange(a, pattern, three=3, heads=self.num_heads), self.qkv(x))
        out = self.attention(self.q_norm(qkv[0]), self.k_norm(qkv[1]), qkv[2])
        return self.proj(linear_map(lambda a: rearrange(a, "b heads n d -> b n (heads d)"), out))


class Mlp(nn.Module):
    """Two-layer perceptron with tanh-GELU."""

    def __init__(self, hidden_size: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.fc1 = Linear(hidden_size, int(hidden_size * mlp_ratio))
        self.act = GELU()
        self.fc2 = Linear(int(hidden_size * mlp_ratio), hidden_size)

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Map tokens ``(B, N, hidden_size)``."""
        return self.fc2(self.act(self.fc1(x)))
