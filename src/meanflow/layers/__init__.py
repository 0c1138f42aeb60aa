"""Layers that take tensors or duals."""

from meanflow.layers.activations import GELU, SiLU
from meanflow.layers.embeddings import LabelEmbedder, TimestepEmbedder, position_table, sinusoidal_embedding
from meanflow.layers.linear import Linear
from meanflow.layers.modulation import gated_residual, modulate
from meanflow.layers.normalization import LayerNorm, RMSNorm
from meanflow.layers.patches import PatchEmbedding, unpatchify
from meanflow.layers.rotary import rotary_table, rotate
from meanflow.layers.swiglu import SwiGLU
from meanflow.layers.transformer import Mlp, SelfAttention

__all__ = [
    "GELU",
    "LabelEmbedder",
    "LayerNorm",
    "Linear",
    "Mlp",
    "PatchEmbedding",
    "RMSNorm",
    "SelfAttention",
    "SiLU",
    "SwiGLU",
    "TimestepEmbedder",
    "gated_residual",
    "modulate",
    "position_table",
    "rotary_table",
    "rotate",
    "sinusoidal_embedding",
    "unpatchify",
]
