"""The diffusion transformer of flow and flow map networks (DiT with adaLN-zero)."""

from __future__ import annotations

from torch import Tensor, nn

from meanflow.dual import Dual, add
from meanflow.layers import (
    LabelEmbedder,
    LayerNorm,
    Linear,
    Mlp,
    PatchEmbedding,
    SelfAttention,
    SiLU,
    TimestepEmbedder,
    gated_residual,
    modulate,
    position_table,
    unpatchify,
)
from meanflow.models.checkpointing import run_checkpointed
from meanflow.models.network import NetworkModule
from meanflow.models.sizes import SIT_SIZES


class TransformerBlock(nn.Module):
    """Attention and perceptron. The conditioning vector modulates and gates both (adaLN-zero)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, attention: str) -> None:
        super().__init__()
        self.norm1 = LayerNorm(hidden_size)
        self.attn = SelfAttention(hidden_size, num_heads, qk_norm=qk_norm, attention=attention)
        self.norm2 = LayerNorm(hidden_size)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(SiLU(), Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor | Dual, c: Tensor | Dual) -> Tensor | Dual:
        """Map tokens ``(B, N, D)`` to tokens ``(B, N, D)``, under the condition ``c (B, D)``."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = gated_residual(x, gate_attn, self.attn(modulate(self.norm1(x), shift_attn, scale_attn)))
        return gated_residual(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """Modulated linear map from tokens to patches."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = LayerNorm(hidden_size)
        self.linear = Linear(hidden_size, patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(SiLU(), Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor | Dual, c: Tensor | Dual) -> Tensor | Dual:
        """Map tokens ``(B, N, D)`` to patches ``(B, N, patch_size ** 2 * C)``, under the condition ``c (B, D)``."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiffusionTransformer(NetworkModule):
    """Embedders, blocks and final layer. A subclass defines which time each block sees.

    Parameters have the names of the official SiT and DMF code.

    Args:
        input_size: Height and width of the latent, a multiple of ``patch_size``.
        patch_size: Height and width of a patch.
        in_channels: Channels of the latent.
        hidden_size: Width of the tokens.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Width of the perceptron over ``hidden_size``.
        num_classes: Number of classes; the null label is ``num_classes``.
        qk_norm: Whether queries and keys are RMS-normalized.
        attention: Name of the attention backend.
        activation_checkpointing: Whether blocks are run again in the backward pass instead of keeping activations.

    Raises:
        ValueError: If an argument is out of range.
        ImportError: If the attention backend needs a package that is not installed.
    """

    sizes = SIT_SIZES
    pos_embed: Tensor

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        qk_norm: bool = False,
        attention: str = "sdpa",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.x_embedder = PatchEmbedding(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.register_buffer("pos_embed", position_table(hidden_size, self.grid_size).float().unsqueeze(0))
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_size, num_heads, mlp_ratio, qk_norm, attention) for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels)

    def init_weights(self) -> None:
        """Initialize every parameter.

        ===============================================  ===========================================
        parameter                                        distribution
        ===============================================  ===========================================
        linear weights, patch embedding (flattened)      Xavier uniform
        all biases                                       0
        label table, weights of the time embedder        normal, std 0.02
        adaLN modulations, final linear                  0 (each block starts as the identity)
        scales of RMS norms                              1
        ===============================================  ===========================================
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        _zero(self.x_embedder.proj)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, TransformerBlock | FinalLayer):
                _zero(module.adaLN_modulation[1])
        _zero(self.final_layer.linear)

    def _tokens(self, z_t: Tensor | Dual) -> Tensor | Dual:
        return add(self.x_embedder(z_t), self.pos_embed)

    def _run(self, block: nn.Module, x: Tensor | Dual, c: Tensor | Dual) -> Tensor | Dual:
        return run_checkpointed(block, x, c) if self.activation_checkpointing else block(x, c)

    def _image(self, x: Tensor | Dual) -> Tensor | Dual:
        return unpatchify(x, self.patch_size, self.grid_size)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
