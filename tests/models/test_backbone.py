import math

import pytest
import torch

from meanflow.layers import position_table
from meanflow.models import DMFTransformer, SiT
from meanflow.objectives.derivative import value_and_derivative
from tests.networks import TINY, aligned_sit, dmf, inputs, sit


@pytest.fixture(scope="module")
def initialized() -> DMFTransformer:
    """Large enough for the statistics of its weights, as constructed."""
    torch.manual_seed(0)
    return DMFTransformer(
        input_size=8, in_channels=16, hidden_size=192, depth=2, num_heads=4, dmf_depth=1, num_classes=999, qk_norm=True
    )


def test_every_parameter_is_in_the_table_of_initial_distributions(initialized):
    """What the docstring of ``init_weights`` says; anything that it does not mention fails here."""
    constants = {"bias": 0.0, "scale": 1.0}
    for name, parameter in initialized.named_parameters():
        kind = name.rpartition(".")[2]
        if kind in constants:
            assert torch.equal(parameter, torch.full_like(parameter, constants[kind])), name
        elif "adaLN_modulation" in name or name in ("final_layer.linear.weight", "logvar_linear.weight"):
            assert not parameter.any(), name
        elif name in ("y_embedder.embedding_table.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"):
            assert_normal(parameter, std=0.02)
        elif name == "x_embedder.proj.weight":
            assert_xavier_uniform(parameter.flatten(1))
        else:
            assert name.startswith("blocks."), name
            assert_xavier_uniform(parameter)


def assert_xavier_uniform(weight: torch.Tensor) -> None:
    bound = math.sqrt(6 / (weight.shape[0] + weight.shape[1]))
    scaled = weight.detach().double() / bound
    assert scaled.abs().max() <= 1
    assert_mean(scaled, 0, std=math.sqrt(1 / 3))
    assert_mean(scaled.square(), 1 / 3, std=math.sqrt(1 / 5 - 1 / 9))
    assert_mean(scaled**4, 1 / 5, std=math.sqrt(1 / 9 - 1 / 25))


def assert_normal(weight: torch.Tensor, std: float) -> None:
    scaled = weight.detach().double() / std
    assert_mean(scaled, 0, std=1)
    assert_mean(scaled.square(), 1, std=math.sqrt(2))
    assert_mean(scaled**4, 3, std=math.sqrt(96))


def assert_mean(samples: torch.Tensor, expected: float, std: float) -> None:
    """The mean is within five standard errors."""
    assert abs(samples.mean().item() - expected) < 5 * std / math.sqrt(samples.numel())


def test_the_position_table_is_fixed(initialized):
    assert "pos_embed" not in dict(initialized.named_parameters())
    assert torch.equal(initialized.pos_embed[0], position_table(192, 4).float())


def test_a_fresh_network_returns_zero(initialized):
    z_t, t, r, cond, _ = inputs(channels=16, size=8)
    output = initialized(z_t.float(), t.float(), r.float(), cond)
    assert not output.u.any()
    assert not output.logvar.any()


def test_initialization_is_a_function_of_the_seed():
    torch.manual_seed(3)
    first = SiT(**TINY).state_dict()
    torch.manual_seed(3)
    again = SiT(**TINY)
    assert all(torch.equal(first[key], value) for key, value in again.state_dict().items())
    again.init_weights()
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], again.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("make", [sit, aligned_sit, dmf])
def test_checkpointed_equals_not_checkpointed_exactly(make, qk_norm):
    z_t, t, r, cond, _ = inputs()
    results = []
    for checkpointing in (False, True):
        network = make(qk_norm=qk_norm, activation_checkpointing=checkpointing)
        output = network(z_t, t, r, cond)
        tensors = [output[0], *(output[1] if isinstance(output[1], tuple) else output[1:])]
        loss = sum(tensor.square().sum() for tensor in tensors)
        results.append([*tensors, *torch.autograd.grad(loss, list(network.parameters()))])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_checkpointed_derivative_equals_not_checkpointed_exactly(attention):
    z_t, t, r, cond, v = inputs()
    results = []
    for checkpointing in (False, True):
        network = dmf(activation_checkpointing=checkpointing, attention=attention)
        output, du_dt = value_and_derivative(network, z_t, t, r, cond, v)
        loss = output.u.square().sum() + output.logvar.sum()
        results.append([output.u, du_dt, output.logvar, *torch.autograd.grad(loss, list(network.parameters()))])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_checkpointing_keeps_fewer_activations():
    z_t, t, r, cond, v = inputs()
    saved = []
    for checkpointing in (False, True):
        network, count = dmf(activation_checkpointing=checkpointing), []
        with torch.autograd.graph.saved_tensors_hooks(lambda a, count=count: (count.append(a.numel()), a)[1], id):
            value_and_derivative(network, z_t, t, r, cond, v)
        saved.append(sum(count))
    assert saved[1] < saved[0] / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 5}, r"input_size must be a multiple of patch_size \(2\), got 5"),
        ({"input_size": 0}, "input_size must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_heads": 3}, r"hidden_size must be a multiple of num_heads \(3\), got 16"),
        ({"hidden_size": 18}, "hidden_size must be a multiple of 4 .* got 18"),
        ({"attention": "none"}, "attention must be one of"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SiT(**TINY | arguments)


def test_the_null_label_is_the_last_row_of_the_label_table():
    network = sit()
    assert network.null_label == network.num_classes == 5
    assert len(network.y_embedder.embedding_table.weight) == 6
