import pytest
import torch

from meanflow.layers import Mlp, SelfAttention
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, normal


def self_attention(attention: str, qk_norm: bool) -> SelfAttention:
    torch.manual_seed(0)
    layer = SelfAttention(hidden_size=12, num_heads=3, qk_norm=qk_norm, attention=attention).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_self_attention_on_duals_agrees_with_jvp(attention, qk_norm):
    layer = self_attention(attention, qk_norm)
    definition = self_attention("reference", qk_norm)
    definition.load_state_dict(layer.state_dict())
    # The definition must share the parameters whose gradients are compared.
    definition.qkv, definition.proj, definition.q_norm, definition.k_norm = (
        layer.qkv,
        layer.proj,
        layer.q_norm,
        layer.k_norm,
    )
    assert_dual_is_jvp(layer, [normal(2, 5, 12)], [normal(2, 5, 12, seed=1)], layer.parameters(), definition=definition)


def test_heads_are_contiguous_parts_of_queries_keys_and_values():
    layer = self_attention("reference", qk_norm=False)
    x = normal(1, 5, 12)
    q, k, v = layer.qkv(x)[0].split(12, dim=-1)
    heads = []
    for first in (0, 4, 8):
        part = slice(first, first + 4)
        heads.append(torch.softmax(q[:, part] @ k[:, part].T / 2, dim=-1) @ v[:, part])
    assert_equal_to_rounding(layer(x)[0], layer.proj(torch.cat(heads, dim=-1)), relative=1e-13)


def test_mlp_on_duals_agrees_with_jvp():
    layer = Mlp(hidden_size=6, mlp_ratio=2.5).double()
    assert layer.fc1.out_features == 15
    assert_dual_is_jvp(layer, [normal(2, 5, 6)], [normal(2, 5, 6, seed=1)], layer.parameters())


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of num_heads \(5\), got 12"):
        SelfAttention(hidden_size=12, num_heads=5)
