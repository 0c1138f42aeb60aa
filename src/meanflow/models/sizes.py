"""The official sizes of networks, as arguments of their constructors."""

from __future__ import annotations

# SiT and DMF transformers, without the patch size.
SIZES: dict[str, dict[str, int]] = {
    "S": {"depth": 12, "hidden_size": 384, "num_heads": 6},
    "B": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "M": {"depth": 16, "hidden_size": 1024, "num_heads": 16},
    "L": {"depth": 24, "hidden_size": 1024, "num_heads": 16},
    "XL": {"depth": 28, "hidden_size": 1152, "num_heads": 16},
}
PATCH_SIZES = (2, 4, 8)
SIT_SIZES: dict[str, dict[str, int]] = {
    f"{letters}/{patch_size}": size | {"patch_size": patch_size}
    for letters, size in SIZES.items()
    for patch_size in PATCH_SIZES
}
# The depth of an iMF network counts the shared blocks and the blocks of one head. All have patch size 2.
IMF_SIZES: dict[str, dict[str, int]] = {
    "B/2": {"depth": 12, "hidden_size": 768, "num_heads": 12, "patch_size": 2},
    "M/2": {"depth": 24, "hidden_size": 768, "num_heads": 12, "patch_size": 2},
    "L/2": {"depth": 32, "hidden_size": 1024, "num_heads": 16, "patch_size": 2},
    "XL/2": {"depth": 48, "hidden_size": 1024, "num_heads": 16, "patch_size": 2},
}
