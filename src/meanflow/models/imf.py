"""Improved MeanFlow: an in-context transformer with heads for u and for v (Geng et al., 2025, arXiv:2512.02012).

All conditions enter as tokens before the patches. The network sees ``h = t - r``, not ``t``. The first blocks are
shared. The last ``aux_head_depth`` blocks exist twice, once for ``u`` and once for ``v``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from meanflow.attention import get_attention
from meanflow.dual import Dual, add, concatenate, linear_map, multiply, primal
from meanflow.layers import (
    LabelEmbedder,
    Linear,
    PatchEmbedding,
    RMSNorm,
    SwiGLU,
    TimestepEmbedder,
    rotary_table,
    rotate,
    unpatchify,
)
from meanflow.models.checkpointing import run_checkpointed
from meanflow.models.network import NetworkModule
from meanflow.models.sizes import IMF_SIZES
from meanflow.types import Condition, IMFOutput

Heads = Literal["both", "u", "v"]
# Number of tokens of each condition in the official networks. The conditions stand before the patches in this order.
NUM_TOKENS = {"class": 8, "omega": 4, "t_min": 2, "t_max": 2, "time": 4}
# Standard deviation of the blocks' linear weights over 1 / sqrt(fan in).
BLOCK_INIT = 0.32


class RotaryAttention(nn.Module):
    """Self-attention without biases. Queries and keys are RMS-normalized per head, then rotated."""

    def __init__(self, hidden_size: int, num_heads: int, attention: str) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads ({num_heads}), got {hidden_size}")
        self.num_heads = num_heads
        self.attention = get_attention(attention)
        self.q_proj = Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = Linear(hidden_size, hidden_size, bias=False)
        self.out_proj = Linear(hidden_size, hidden_size, bias=False)
        self.q_norm = RMSNorm(hidden_size // num_heads)
        self.k_norm = RMSNorm(hidden_size // num_heads)

    def forward(self, x: Tensor | Dual, angles: Tensor) -> Tensor | Dual:
        """Attend over tokens ``(B, N, hidden_size)``, whose positions have angles ``(N, head_dim / 2)``."""
        q = rotate(self.q_norm(self._heads(self.q_proj(x))), angles)
        k = rotate(self.k_norm(self._heads(self.k_proj(x))), angles)
        out = self.attention(q, k, self._heads(self.v_proj(x)))
        return self.out_proj(linear_map(lambda a: rearrange(a, "b heads n d -> b n (heads d)"), out))

    def _heads(self, x: Tensor | Dual) -> Tensor | Dual:
        return linear_map(lambda a: rearrange(a, "b n (heads d) -> b heads n d", heads=self.num_heads), x)


class GatedBlock(nn.Module):
    """Attention and SwiGLU, each after an RMS norm and before a learned gate per channel. Gates start at 0."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, attention: str) -> None:
        super().__init__()
        self.norm1 = RMSNorm(hidden_size)
        self.attn = RotaryAttention(hidden_size, num_heads, attention)
        self.norm2 = RMSNorm(hidden_size)
        self.mlp = SwiGLU(hidden_size, int(hidden_size * mlp_ratio))
        self.attn_scale = nn.Parameter(torch.zeros(hidden_size))
        self.mlp_scale = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor | Dual, angles: Tensor) -> Tensor | Dual:
        """Map tokens ``(B, N, hidden_size)``, whose positions have angles ``(N, head_dim / 2)``."""
        x = add(x, multiply(self.attn(self.norm1(x), angles), self.attn_scale))
        return add(x, multiply(self.mlp(self.norm2(x)), self.mlp_scale))


class PatchHead(nn.Module):
    """RMS norm and linear map from tokens to patches."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden_size)
        self.linear = Linear(hidden_size, patch_size**2 * out_channels)

    def forward(self, x: Tensor | Dual) -> Tensor | Dual:
        """Map tokens ``(B, N, hidden_size)`` to ``(B, N, patch_size ** 2 * C)``."""
        return self.linear(self.norm(x))


class IMFTransformer(NetworkModule):
    """Improved MeanFlow network ``(u, v)(z_t, t - r, omega, t_min, t_max, y)``.

    Args:
        input_size: Height and width of the latent, a multiple of ``patch_size``.
        patch_size: Height and width of a patch.
        in_channels: Channels of the latent.
        hidden_size: Width of the tokens.
        depth: Number of shared blocks plus the number of blocks of one head.
        num_heads: Number of attention heads.
        mlp_ratio: Width of the perceptron over ``hidden_size``, rounded down.
        num_classes: Number of classes; the null label is ``num_classes``.
        aux_head_depth: Number of blocks of each head, less than ``depth``.
        num_tokens: Number of tokens of each condition: ``class``, ``omega``, ``t_min``, ``t_max`` and ``time``. The
            network does not see a condition with 0 tokens.
        v_heads: Whether the blocks of the v head exist. Released evaluation checkpoints lack them. Without them ``v``
            is no trained output, and the network cannot be trained.
        attention: Name of the attention backend.
        activation_checkpointing: Whether blocks are run again in the backward pass instead of keeping activations.

    Raises:
        ValueError: If an argument is out of range.
        ImportError: If the attention backend needs a package that is not installed.
    """

    output = IMFOutput
    sizes = IMF_SIZES
    output_field = "u"
    takes_guidance = True
    sampling_arguments = MappingProxyType({"heads": "u"})
    angles: Tensor

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 8 / 3,
        num_classes: int = 1000,
        aux_head_depth: int = 8,
        num_tokens: Mapping[str, int] = NUM_TOKENS,
        v_heads: bool = True,
        attention: str = "sdpa",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= aux_head_depth < depth:
            raise ValueError(f"aux_head_depth must be from 1 to depth - 1 ({depth - 1}), got {aux_head_depth}")
        if set(num_tokens) != set(NUM_TOKENS) or min(num_tokens.values()) < 0:
            raise ValueError(f"num_tokens must give at least 0 for each of {', '.join(NUM_TOKENS)}; got {num_tokens}")
        self.x_embedder = PatchEmbedding(patch_size, in_channels, hidden_size)
        self.h_embedder = TimestepEmbedder(hidden_size)
        self.omega_embedder = TimestepEmbedder(hidden_size)
        self.t_min_embedder = TimestepEmbedder(hidden_size)
        self.t_max_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.class_tokens = nn.Parameter(torch.empty(num_tokens["class"], hidden_size))
        self.omega_tokens = nn.Parameter(torch.empty(num_tokens["omega"], hidden_size))
        self.t_min_tokens = nn.Parameter(torch.empty(num_tokens["t_min"], hidden_size))
        self.t_max_tokens = nn.Parameter(torch.empty(num_tokens["t_max"], hidden_size))
        self.time_tokens = nn.Parameter(torch.empty(num_tokens["time"], hidden_size))
        self.num_prefix_tokens = sum(num_tokens.values())
        length = self.num_prefix_tokens + self.grid_size**2
        self.register_buffer("angles", rotary_table(length, hidden_size // num_heads), persistent=False)

        def blocks(number: int) -> nn.ModuleList:
            return nn.ModuleList(GatedBlock(hidden_size, num_heads, mlp_ratio, attention) for _ in range(number))

        self.shared_blocks = blocks(depth - aux_head_depth)
        self.u_heads = blocks(aux_head_depth)
        self.v_heads = blocks(aux_head_depth if v_heads else 0)
        self.u_final_layer = PatchHead(hidden_size, patch_size, in_channels)
        self.v_final_layer = PatchHead(hidden_size, patch_size, in_channels)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialize every parameter.

        ============================================  =====================================
        parameter                                     distribution
        ============================================  =====================================
        linear weights of the blocks                  normal, std 0.32 / sqrt(fan in)
        linear weights of the embedders               normal, std 1 / sqrt(fan in)
        label table, condition tokens                 normal, std 1 / sqrt(hidden_size)
        patch embedding (flattened)                   Xavier uniform
        all biases, gates, final linear layers        0
        scales of RMS norms                           1
        ============================================  =====================================
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in (*self.shared_blocks, *self.u_heads, *self.v_heads):
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=BLOCK_INIT * module.in_features**-0.5)
        hidden_size = self.config["hidden_size"]
        for tokens in (*self._tokens(), self.y_embedder.embedding_table.weight):
            nn.init.normal_(tokens, std=hidden_size**-0.5)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        if self.x_embedder.proj.bias is not None:
            nn.init.zeros_(self.x_embedder.proj.bias)
        for head in (self.u_final_layer, self.v_final_layer):
            nn.init.zeros_(head.linear.weight)

    def forward(
        self, z_t: Tensor | Dual, t: Tensor | Dual, r: Tensor, cond: Condition, heads: Heads = "both"
    ) -> IMFOutput:
        """Return the average velocity from ``t`` to ``r`` and the velocity at ``t``.

        Args:
            z_t: State ``(B, C, H, W)``.
            t: Time of the state ``(B,)``.
            r: Time to go to ``(B,)``, ``r <= t``.
            cond: Labels, guidance scales and intervals, each ``(B,)``.
            heads: Heads to evaluate. The output of the other head is ``None`` and costs nothing.

        Raises:
            ValueError: If the condition lacks guidance scales or intervals.
        """
        if cond.omega is None or cond.t_min is None or cond.t_max is None:
            raise ValueError("an iMF network needs omega, t_min and t_max in its condition")
        class_tokens, omega_tokens, t_min_tokens, t_max_tokens, time_tokens = self._tokens()
        prefix = [
            add(class_tokens, self.y_embedder(cond.y).unsqueeze(1)),
            add(omega_tokens, self.omega_embedder(1 - 1 / cond.omega).unsqueeze(1)),
            add(t_min_tokens, self.t_min_embedder(cond.t_min).unsqueeze(1)),
            add(t_max_tokens, self.t_max_embedder(cond.t_max).unsqueeze(1)),
            add(time_tokens, self.h_embedder(add(t, -r)).unsqueeze(1)),
        ]
        x = self._run(self.shared_blocks, concatenate([*prefix, self.x_embedder(z_t)], dim=1))
        u = self._image(self.u_final_layer(self._run(self.u_heads, x))) if heads != "v" else None
        v = self._image(self.v_final_layer(self._run(self.v_heads, primal(x)))) if heads != "u" else None
        return IMFOutput(u, None if v is None else primal(v))

    def _tokens(self) -> tuple[Tensor, ...]:
        return self.class_tokens, self.omega_tokens, self.t_min_tokens, self.t_max_tokens, self.time_tokens

    def _run(self, blocks: nn.ModuleList, x: Tensor | Dual) -> Tensor | Dual:
        for block in blocks:
            x = run_checkpointed(block, x, self.angles) if self.activation_checkpointing else block(x, self.angles)
        return x

    def _image(self, x: Tensor | Dual) -> Tensor | Dual:
        return unpatchify(linear_map(lambda a: a[:, self.num_prefix_tokens :], x), self.patch_size, self.grid_size)
