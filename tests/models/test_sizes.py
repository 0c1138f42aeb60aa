import pytest
import torch

from meanflow.models import PATCH_SIZES, SIT_SIZES, SIZES, DMFTransformer, SiT


def num_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def expected_parameters(depth: int, hidden_size: int, patch_size: int) -> int:
    """Counted by hand for latents of 4 channels and 1000 classes (1001 rows)."""
    d = hidden_size
    embedders = (4 * patch_size**2 * d + d) + (256 * d + d) + (d * d + d) + 1001 * d
    block = (3 * d * d + 3 * d) + (d * d + d) + 2 * (4 * d * d) + 5 * d + (6 * d * d + 6 * d)
    final = (2 * d * d + 2 * d) + (4 * patch_size**2) * (d + 1)
    return embedders + depth * block + final


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
@pytest.mark.parametrize("letters", SIZES)
def test_official_sizes_build(letters, patch_size):
    name = f"{letters}/{patch_size}"
    with torch.device("meta"):
        flow = SiT.from_size(name)
        flow_map = DMFTransformer.from_size(name, dmf_depth=8)
    size = SIZES[letters]
    expected = expected_parameters(size["depth"], size["hidden_size"], patch_size)
    assert num_parameters(flow) == expected
    assert num_parameters(flow_map) == expected + 257
    assert flow.config["num_heads"] == size["num_heads"]
    assert flow.config["patch_size"] == patch_size


def test_xl_2_has_675_million_parameters():
    with torch.device("meta"):
        network = SiT.from_size("XL/2")
    # With its position table, which the official code counts as a parameter, and the variance channels of DiT-XL/2 the
    # number is the 675,129,632 of that network.
    assert num_parameters(network) == 674_816_272
    assert 674_816_272 + network.pos_embed.numel() + 16 * (1152 + 1) == 675_129_632


def test_the_table_of_sizes():
    assert {name: tuple(size.values()) for name, size in SIZES.items()} == {
        "S": (12, 384, 6),
        "B": (12, 768, 12),
        "M": (16, 1024, 16),
        "L": (24, 1024, 16),
        "XL": (28, 1152, 16),
    }
    assert PATCH_SIZES == (2, 4, 8)
    assert SIT_SIZES["XL/2"] == {"depth": 28, "hidden_size": 1152, "num_heads": 16, "patch_size": 2}


@pytest.mark.parametrize("name", ["XXL/2", "XL/3", "XL", "XL/", "/2", "xl/2", ""])
def test_other_names_are_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"size must be one of S/2, S/4, .*XL/8; got '{name}'"):
        SiT.from_size(name)


def test_a_size_leaves_the_other_arguments_free():
    with torch.device("meta"):
        network = SiT.from_size("S/4", input_size=16, in_channels=3, num_classes=10, qk_norm=True)
    assert (network.input_size, network.in_channels, network.num_classes) == (16, 3, 10)
    with pytest.raises(TypeError, match="depth"):
        SiT.from_size("S/4", depth=3)
