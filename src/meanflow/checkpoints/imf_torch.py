"""Official files of improved MeanFlow under the names of its PyTorch branch (``Lyy-iiis/imeanflow``): ``.pth``.

A file is a bare state dict. The released files are for evaluation and lack the blocks of the v head. The weights do not
determine these settings, which have defaults: ``input_size`` (32; the rotary table is not stored), ``codec``
(sd-vae-ft-mse), ``normalization`` (mean and standard deviation of each channel, as in iMF) and ``sampler``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from meanflow.checkpoints.description import RUNTIME, Description, Released, width_ratio
from meanflow.checkpoints.weights import num_entries, shape_of, to_float32
from meanflow.codecs.normalization import IMF
from meanflow.models.imf import NUM_TOKENS

CODEC = {"name": "autoencoder_kl", "path": "stabilityai/sd-vae-ft-mse"}
# The sampler of a released model. The paper's main results take one step. The guidance is the guidance with which the
# official training program evaluates iMF-B/2.
SAMPLER: dict[str, Any] = {
    "name": "FlowMapEuler",
    "num_steps": 1,
    "guidance": {"name": "NetworkGuidance", "omega": 7.5, "interval": [0.4, 0.65]},
}

EMBEDDERS = {"cfg_t_start_embedder": "t_min_embedder", "cfg_t_end_embedder": "t_max_embedder"}
NORM = r"(norm1|norm2|q_norm|k_norm|final_layer\.norm)"
# Layers that the official code wraps in a module. Their official names have one more level.
LINEAR = r"((?:_embedder\.mlp\.\d+|\.[qkv]_proj|\.out_proj|\.mlp\.w[123]|_final_layer\.linear))"


def matches(weights: Mapping[str, Tensor]) -> bool:
    """Return whether the names of the weights are the official names or this project's names of an iMF transformer."""
    return any(re.match(r"(net\.)?(shared_blocks|u_heads)\.0\.", key) for key in weights)


def our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of ``IMFTransformer``. The function inverts ``official_names``."""
    return {_our_name(key): value for key, value in weights.items()}


def official_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of the official PyTorch branch. The function inverts ``our_names``."""
    return {_official_name(key): value for key, value in weights.items()}


def describe(weights: Mapping[str, Tensor], source: str) -> Released:
    """Read the architecture from the names and shapes of the weights.

    Args:
        weights: State dict under official names or the names of this project.
        source: Name of the file, for messages.

    Raises:
        ValueError: If the weights do not belong to an iMF transformer.
    """
    weights = our_names(weights)
    hidden_size, in_channels, patch_size, _ = shape_of(weights, "x_embedder.proj.weight", 4, source)
    aux_head_depth = num_entries(weights, "u_heads")
    inner_size, _ = shape_of(weights, "shared_blocks.0.mlp.w1.weight", 2, source)
    read = {
        "network": "IMFTransformer",
        "patch_size": patch_size,
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "depth": num_entries(weights, "shared_blocks") + aux_head_depth,
        "num_heads": hidden_size // shape_of(weights, "shared_blocks.0.attn.q_norm.scale", 1, source)[0],
        "mlp_ratio": width_ratio(inner_size, hidden_size, 8 / 3),
        "num_classes": shape_of(weights, "y_embedder.embedding_table.weight", 2, source)[0] - 1,
        "aux_head_depth": aux_head_depth,
        "num_tokens": {name: shape_of(weights, f"{name}_tokens", 2, source)[0] for name in NUM_TOKENS},
        "v_heads": num_entries(weights, "v_heads") > 0,
    }
    assumed = {
        "input_size": 32,
        "codec": CODEC if in_channels == 4 else None,
        "normalization": IMF.to_dict() if in_channels == 4 else None,
        "sampler": SAMPLER,
        **RUNTIME,
    }
    return Released(to_float32(weights, source), Description(read, assumed))


def _our_name(key: str) -> str:
    key = key.removeprefix("net.").replace("._flax_linear", "").replace("._flax_embedding", "")
    for official, ours in EMBEDDERS.items():
        key = re.sub(rf"^{official}\.", f"{ours}.", key)
    return re.sub(rf"{NORM}\.weight$", r"\1.scale", key)


def _official_name(key: str) -> str:
    key = re.sub(rf"{NORM}\.scale$", r"\1.weight", key)
    key = re.sub(rf"{LINEAR}\.(weight|bias)$", r"\1._flax_linear.\2", key)
    key = re.sub(r"\.embedding_table\.weight$", ".embedding_table._flax_embedding.weight", key)
    for official, ours in EMBEDDERS.items():
        key = re.sub(rf"^{ours}\.", f"{official}.", key)
    return f"net.{key}"
