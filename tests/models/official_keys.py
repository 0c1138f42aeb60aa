"""Official names of the parameters of a transformer block."""


def block_keys(i: int) -> list[str]:
    """Parameters of block ``i`` of SiT and DMFT."""
    return [
        f"blocks.{i}.adaLN_modulation.1.bias",
        f"blocks.{i}.adaLN_modulation.1.weight",
        f"blocks.{i}.attn.proj.bias",
        f"blocks.{i}.attn.proj.weight",
        f"blocks.{i}.attn.qkv.bias",
        f"blocks.{i}.attn.qkv.weight",
        f"blocks.{i}.mlp.fc1.bias",
        f"blocks.{i}.mlp.fc1.weight",
        f"blocks.{i}.mlp.fc2.bias",
        f"blocks.{i}.mlp.fc2.weight",
    ]


def qk_norm_keys(i: int) -> list[str]:
    """What block ``i`` has in addition with ``qk_norm``."""
    return [f"blocks.{i}.attn.k_norm.scale", f"blocks.{i}.attn.q_norm.scale"]
