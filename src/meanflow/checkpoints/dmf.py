"""Official files of SiT and Decoupled MeanFlow (``kyungmnlee/dmf``, REPA): ``.pt``.

A released file is a bare state dict. A file of the training program is ``{model, ema, opt, args, steps}``, where
``args`` is an ``argparse.Namespace``. The parameters have the same names in the official code and in this project.

========================  ============================================================================================
setting                   source of the value
========================  ============================================================================================
``network``               AlignedSiT with ``projectors`` weights, DMFTransformer with ``logvar_linear`` weights; else
                          the training arguments; else DMFTransformer if the user states ``dmf_depth``; else SiT
sizes, ``qk_norm``        shapes and names of the weights
``num_heads``             the query norm; else the official size with this ``hidden_size``; else the user states it
``dmf_depth``             the training arguments; else the official value: 20 of 28 blocks, or 2/3 of another number
``alignment_depth``       the official value 8
``codec``                 sd-vae-ft-mse for latents of 4 channels; else the user states it
``normalization``         the factor 0.18215 for latents of 4 channels; else the user states it
``sampler``               Euler steps
========================  ============================================================================================
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping

from torch import Tensor

from meanflow.checkpoints.description import RUNTIME, Description, Released, Settings, width_ratio
from meanflow.checkpoints.weights import is_state_dict, num_entries, shape_of, to_float32
from meanflow.codecs.normalization import SCALE_0_18215
from meanflow.models import SIZES

NUM_HEADS = {size["hidden_size"]: size["num_heads"] for size in SIZES.values()}
CODEC = {"name": "autoencoder_kl", "path": "stabilityai/sd-vae-ft-mse"}
FLOW_SAMPLER = {"name": "FlowEuler", "num_steps": 64}
FLOW_MAP_SAMPLER = {"name": "FlowMapEuler", "num_steps": 4}


def is_training_checkpoint(content: object) -> bool:
    """Return whether the content of a torch file is a checkpoint of the official training programs."""
    return isinstance(content, dict) and any(is_state_dict(content.get(key)) for key in ("model", "ema"))


def unpack(content: Settings, ema: bool, source: str) -> tuple[Mapping[str, Tensor], Namespace]:
    """Return the averaged or the trained weights of a training checkpoint, and the arguments of its program.

    Raises:
        ValueError: If the checkpoint lacks these weights.
    """
    key = "ema" if ema and "ema" in content else "model"
    if not is_state_dict(content.get(key)):
        raise ValueError(f"{source} holds no weights under {key!r}, only {sorted(map(str, content))}")
    arguments = content.get("args")
    return content[key], arguments if isinstance(arguments, Namespace) else Namespace()


def matches(weights: Mapping[str, Tensor]) -> bool:
    """Return whether the names of the weights are the names of a SiT or a DMF transformer."""
    return "x_embedder.proj.weight" in weights and any(key.startswith("blocks.0.") for key in weights)


def describe(
    weights: Mapping[str, Tensor], arguments: Namespace, stated: Mapping[str, object], source: str
) -> Released:
    """Read the architecture from the names and shapes of the weights.

    Args:
        weights: State dict under official names.
        arguments: Arguments of the training program; an empty namespace if the file has none.
        stated: Settings that the user states. They decide between SiT and DMF if the file does not.
        source: Name of the file, for messages.

    Raises:
        ValueError: If the weights do not belong to a SiT or a DMF transformer.
    """
    hidden_size, in_channels, patch_size, _ = shape_of(weights, "x_embedder.proj.weight", 4, source)
    _, num_patches, _ = shape_of(weights, "pos_embed", 3, source)
    grid_size = math.isqrt(num_patches)
    if grid_size**2 != num_patches:
        raise ValueError(f"{source} is of another architecture: pos_embed has {num_patches} places, which is no square")
    depth = num_entries(weights, "blocks")
    read: Settings = {
        "input_size": grid_size * patch_size,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "depth": depth,
        "mlp_ratio": width_ratio(shape_of(weights, "blocks.0.mlp.fc1.weight", 2, source)[0], hidden_size, 4.0),
        "num_classes": shape_of(weights, "y_embedder.embedding_table.weight", 2, source)[0] - 1,
        "qk_norm": any(".q_norm." in key for key in weights),
    }
    assumed: Settings = {
        "codec": CODEC if in_channels == 4 else None,
        "normalization": SCALE_0_18215.to_dict() if in_channels == 4 else None,
        **RUNTIME,
    }
    if read["qk_norm"]:
        read["num_heads"] = hidden_size // shape_of(weights, "blocks.0.attn.q_norm.scale", 1, source)[0]
    else:
        assumed["num_heads"] = NUM_HEADS.get(hidden_size)
    _describe_network(weights, arguments, stated, read, assumed, source)
    return Released(to_float32(weights, source), Description(read, assumed))


def _describe_network(
    weights: Mapping[str, Tensor],
    arguments: Namespace,
    stated: Mapping[str, object],
    read: Settings,
    assumed: Settings,
    source: str,
) -> None:
    trained = str(getattr(arguments, "model", ""))
    num_projectors = num_entries(weights, "projectors")
    if num_projectors:
        read["network"] = "AlignedSiT"
        read["alignment_dims"] = [
            shape_of(weights, f"projectors.{i}.4.weight", 2, source)[0] for i in range(num_projectors)
        ]
        read["projector_dim"] = shape_of(weights, "projectors.0.0.weight", 2, source)[0]
        assumed["alignment_depth"] = min(8, read["depth"])
    elif "logvar_linear.weight" in weights or trained.startswith("DMFT"):
        read["network"] = "DMFTransformer"
    elif trained.startswith("SiT"):
        read["network"] = "SiT"
    else:
        assumed["network"] = "DMFTransformer" if "dmf_depth" in stated else "SiT"
    network = read.get("network") or stated.get("network", assumed["network"])
    if network == "DMFTransformer":
        read["logvar"] = "logvar_linear.weight" in weights
        if isinstance(trained_depth := getattr(arguments, "dmf_depth", None), int):
            read["dmf_depth"] = trained_depth
        else:
            assumed["dmf_depth"] = 20 if read["depth"] == 28 else max(1, round(2 * read["depth"] / 3))
    assumed["sampler"] = FLOW_MAP_SAMPLER if network == "DMFTransformer" else FLOW_SAMPLER
