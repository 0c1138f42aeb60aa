"""The official sizes of SiT and DMF transformers."""

from __future__ import annotations

SIZES: dict[str, dict[str, int]] = {
    "S": {"depth": 12, "hidden_size": 384, "num_heads": 6},
    "B": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "M": {"depth": 16, "hidden_size": 1024, "num_heads": 16},
    "L": {"depth": 24, "hidden_size": 1024, "num_heads": 16},
    "XL": {"depth": 28, "hidden_size": 1152, "num_heads": 16},
}
# iMF's depth counts the shared blocks and those of one head; patch size 2 only.
IMF_SIZES: dict[str, dict[str, int]] = {
    "B/2": {"depth": 12, "hidden_size": 768, "num_heads": 12, "patch_size": 2},
    "M/2": {"depth": 24, "hidden_size": 768, "num_heads": 12, "patch_size": 2},
    "L/2": {"depth": 32, "hidden_size": 1024, "num_heads": 16, "patch_size": 2},
    "XL/2": {"depth": 48, "hidden_size": 1024, "num_heads": 16, "patch_size": 2},
}
PATCH_SIZES = (2, 4, 8)


def official_size(name: str) -> dict[str, int]:
    """Return ``depth``, ``hidden_size``, ``num_heads`` and ``patch_size`` of a size such as ``"XL/2"``.

    Raises:
        ValueError: If the name is not one of the official sizes.
    """
    letters, _, patch = name.partition("/")
    if letters not in SIZES or patch not in map(str, PATCH_SIZES):
        allowed = ", ".join(f"{key}/{p}" for key in SIZES for p in PATCH_SIZES)
        raise ValueError(f"size must be one of {allowed}; got {name!r}")
    return SIZES[letters] | {"patch_size": int(patch)}
