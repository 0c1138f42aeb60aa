"""The improved MeanFlow transformer: derivative, heads, names, sizes, initial weights, errors."""

import pytest
import torch

from meanflow.dual import Dual
from meanflow.layers import unpatchify
from meanflow.models import IMFTransformer
from meanflow.objectives.derivative import value_and_derivative
from meanflow.types import Condition
from tests.duals import assert_equal_to_rounding, jvp, normal
from tests.models.test_backbone import assert_normal, assert_xavier_uniform
from tests.networks import TINY, guided, imf, inputs, plain_definition


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Condition, torch.Tensor]:
    z_t, t, r, cond, v = inputs()
    return z_t, t, r, guided(cond), v


# --- Derivative -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_value_derivative_and_gradients_are_those_of_jvp(attention):
    network = imf(attention=attention)
    plain = plain_definition(network)
    z_t, t, r, cond, v = problem()
    output, du_dt = value_and_derivative(network, z_t, t, r, cond, v)

    def definition(z_t, t, r):
        expected = plain(z_t, t, r, cond)
        return expected.u, expected.v

    (u, v_head), (expected, _) = jvp(definition, (z_t, t, r), (v, torch.ones_like(t), torch.zeros_like(r)))
    assert not du_dt.requires_grad
    assert_equal_to_rounding(output.u, u)
    assert_equal_to_rounding(output.v, v_head)
    assert_equal_to_rounding(du_dt, expected)

    parameters = list(network.parameters())
    weight = normal(*u.shape, seed=99)
    actual = torch.autograd.grad((weight * (output.u + 2 * output.v)).sum(), parameters)
    plain_u, plain_v = definition(z_t, t, r)
    for a, b in zip(actual, torch.autograd.grad((weight * (plain_u + 2 * plain_v)).sum(), parameters), strict=True):
        assert_equal_to_rounding(a, b)


def test_the_network_sees_the_difference_of_times_only():
    network, (z_t, t, r, cond, _) = imf(), problem()
    moved = network(z_t, t + 0.25, r + 0.25, cond)
    expected = network(z_t, t, r, cond)
    assert_equal_to_rounding(moved.u, expected.u)
    assert_equal_to_rounding(moved.v, expected.v)
    assert (network(z_t, t + 0.25, r, cond).u - expected.u).abs().max() > 1e-3


@pytest.mark.parametrize(
    "change", [{"y": torch.tensor([1, 0, 4, 3])}, {"omega": 3.0}, {"t_min": 0.05}, {"t_max": 0.95}]
)
def test_every_condition_matters_to_both_heads_of_every_sample(change):
    network, (z_t, t, r, cond, _) = imf(), problem()
    ((name, value),) = change.items()
    other = cond._replace(**{name: value if isinstance(value, torch.Tensor) else torch.full_like(t, value)})
    for a, b in zip(network(z_t, t, r, cond), network(z_t, t, r, other), strict=True):
        assert ((a - b).abs().amax((1, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_checkpointed_equals_not_checkpointed_exactly(attention):
    z_t, t, r, cond, v = problem()
    results = []
    for checkpointing in (False, True):
        network = imf(activation_checkpointing=checkpointing, attention=attention)
        output, du_dt = value_and_derivative(network, z_t, t, r, cond, v)
        plain = network(z_t, t, r, cond)
        loss = output.u.square().sum() + output.v.square().sum() + plain.u.sum() + plain.v.square().sum()
        results.append([*output, *plain, du_dt, *torch.autograd.grad(loss, list(network.parameters()))])
    for kept, checkpointed in zip(*results, strict=True):
        assert torch.equal(kept, checkpointed)


def test_checkpointing_keeps_fewer_activations():
    z_t, t, r, cond, v = problem()
    saved = []
    for checkpointing in (False, True):
        network, count = imf(activation_checkpointing=checkpointing), []
        with torch.autograd.graph.saved_tensors_hooks(lambda a, count=count: (count.append(a.numel()), a)[1], id):
            value_and_derivative(network, z_t, t, r, cond, v)
        saved.append(sum(count))
    assert saved[1] < saved[0] / 2


# --- Heads ------------------------------------------------------------------------------------------------------------


def num_calls(network: IMFTransformer) -> dict[str, list[bool]]:
    """Lists that grow with every block that runs, with whether it ran on duals."""
    calls: dict[str, list[bool]] = {"shared_blocks": [], "u_heads": [], "v_heads": []}
    for name, seen in calls.items():
        for block in getattr(network, name):
            block.register_forward_pre_hook(lambda _, a, seen=seen: seen.append(isinstance(a[0], Dual)))
    return calls


@pytest.mark.parametrize("on_duals", [False, True])
def test_one_head_agrees_with_both_and_the_other_does_not_run(on_duals):
    network, (z_t, t, r, cond, v) = imf(), problem()
    calls = num_calls(network)
    state = (Dual(z_t, v), Dual(t, torch.ones_like(t))) if on_duals else (z_t, t)
    both = network(*state, r, cond)
    assert calls == {"shared_blocks": [on_duals] * 2, "u_heads": [on_duals], "v_heads": [False]}
    u = network(*state, r, cond, heads="u")
    assert [len(seen) for seen in calls.values()] == [4, 2, 1]
    v_only = network(*state, r, cond, heads="v")
    assert [len(seen) for seen in calls.values()] == [6, 2, 2]
    assert u.v is None
    assert v_only.u is None
    assert torch.equal(v_only.v, both.v)
    assert isinstance(both.v, torch.Tensor)
    pairs = [(u.u.primal, both.u.primal), (u.u.tangent, both.u.tangent)] if on_duals else [(u.u, both.u)]
    assert all(torch.equal(a, b) for a, b in pairs)


def test_without_v_heads_u_is_the_same_and_v_reads_the_trunk():
    network, (z_t, t, r, cond, _) = imf(), problem()
    evaluation = imf(seed=1, v_heads=False)
    evaluation.load_state_dict({k: a for k, a in network.state_dict().items() if not k.startswith("v_heads.")})
    trunk = []
    evaluation.shared_blocks[-1].register_forward_hook(lambda _, arguments, output: trunk.append(output))
    output = evaluation(z_t, t, r, cond)
    assert torch.equal(output.u, network(z_t, t, r, cond).u)
    patches = evaluation.v_final_layer(trunk[0])[:, network.num_prefix_tokens :]
    assert torch.equal(output.v, unpatchify(patches, 2, 2))
    assert len(evaluation.v_heads) == 0


# --- Names, sizes, initial weights ------------------------------------------------------------------------------------

EMBEDDERS = ("h_embedder", "omega_embedder", "t_min_embedder", "t_max_embedder")
OUTSIDE_BLOCKS = [
    "class_tokens",
    "omega_tokens",
    "t_max_tokens",
    "t_min_tokens",
    "time_tokens",
    "u_final_layer.linear.bias",
    "u_final_layer.linear.weight",
    "u_final_layer.norm.scale",
    "v_final_layer.linear.bias",
    "v_final_layer.linear.weight",
    "v_final_layer.norm.scale",
    "x_embedder.proj.bias",
    "x_embedder.proj.weight",
    "y_embedder.embedding_table.weight",
    *(f"{name}.mlp.{i}.{kind}" for name in EMBEDDERS for i in (0, 2) for kind in ("bias", "weight")),
]
BLOCK = [
    "attn.k_norm.scale",
    "attn.k_proj.weight",
    "attn.out_proj.weight",
    "attn.q_norm.scale",
    "attn.q_proj.weight",
    "attn.v_proj.weight",
    "attn_scale",
    "mlp.w1.weight",
    "mlp.w2.weight",
    "mlp.w3.weight",
    "mlp_scale",
    "norm1.scale",
    "norm2.scale",
]


def test_state_dict_keys():
    trunk = [f"shared_blocks.{i}.{key}" for i in (0, 1) for key in BLOCK]
    u_head, v_head = ([f"{name}.0.{key}" for key in BLOCK] for name in ("u_heads", "v_heads"))
    assert sorted(imf().state_dict()) == sorted([*OUTSIDE_BLOCKS, *trunk, *u_head, *v_head])
    assert sorted(imf(v_heads=False).state_dict()) == sorted([*OUTSIDE_BLOCKS, *trunk, *u_head])


def num_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def expected_parameters(num_blocks: int, hidden_size: int, num_heads: int) -> int:
    """Counted by hand for latents of 4 channels, patches of 2 and 1000 classes (1001 rows)."""
    d = hidden_size
    embedders = (16 * d + d) + 4 * ((256 * d + d) + (d * d + d)) + 1001 * d + 20 * d
    block = 4 * d * d + 3 * d * int(d * 8 / 3) + 4 * d + 2 * (d // num_heads)
    final = d + 16 * d + 16
    return embedders + num_blocks * block + 2 * final


@pytest.mark.parametrize(
    ("size", "depth", "hidden_size", "num_heads", "trained", "released"),
    [
        ("B/2", 12, 768, 12, 145_596_960, 88_948_256),
        ("M/2", 24, 768, 12, 230_570_016, 173_921_312),
        ("L/2", 32, 1024, 16, 509_752_352, 409_071_648),
        ("XL/2", 48, 1024, 16, 711_113_760, 610_433_056),
    ],
)
def test_official_sizes_build(size, depth, hidden_size, num_heads, trained, released):
    with torch.device("meta"):
        network = IMFTransformer.from_size(size)
        evaluation = IMFTransformer.from_size(size, v_heads=False)
    assert (len(network.shared_blocks), len(network.u_heads), len(network.v_heads)) == (depth - 8, 8, 8)
    assert num_parameters(network) == expected_parameters(depth + 8, hidden_size, num_heads) == trained
    assert num_parameters(evaluation) == expected_parameters(depth, hidden_size, num_heads) == released


@pytest.fixture(scope="module")
def initialized() -> IMFTransformer:
    """Large enough for the statistics of its weights, as constructed."""
    torch.manual_seed(0)
    return IMFTransformer(
        input_size=8, in_channels=16, hidden_size=192, depth=2, num_heads=4, aux_head_depth=1, num_classes=999
    )


def test_every_parameter_is_in_the_table_of_initial_distributions(initialized):
    """What the docstring of ``init_weights`` says; anything that it does not mention fails here."""
    for name, parameter in initialized.named_parameters():
        kind = name.rpartition(".")[2]
        if kind in ("bias", "attn_scale", "mlp_scale") or name.endswith("_final_layer.linear.weight"):
            assert not parameter.any(), name
        elif kind == "scale":
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif name == "x_embedder.proj.weight":
            assert_xavier_uniform(parameter.flatten(1))
        elif kind.endswith("_tokens") or name == "y_embedder.embedding_table.weight":
            assert_normal(parameter, std=192**-0.5)
        elif name.split(".")[0] in EMBEDDERS:
            assert_normal(parameter, std=parameter.shape[1] ** -0.5)
        else:
            assert name.split(".")[0] in ("shared_blocks", "u_heads", "v_heads"), name
            assert_normal(parameter, std=0.32 * parameter.shape[1] ** -0.5)


def test_a_fresh_network_returns_zero(initialized):
    z_t, t, r, cond, _ = inputs(channels=16, size=8)
    output = initialized(z_t.float(), t.float(), r.float(), Condition(cond.y, *(a.float() for a in guided(cond)[1:])))
    assert not output.u.any()
    assert not output.v.any()


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 5}, r"input_size must be a multiple of patch_size \(2\), got 5"),
        ({"aux_head_depth": 0}, r"aux_head_depth must be from 1 to depth - 1 \(2\), got 0"),
        ({"num_tokens": {"class": 8}}, r"num_tokens must give at least 0 for each of class, omega, t_min, t_max, time"),
        ({"aux_head_depth": 3}, r"aux_head_depth must be from 1 to depth - 1 \(2\), got 3"),
        ({"hidden_size": 18, "num_heads": 4}, r"hidden_size must be a multiple of num_heads \(4\), got 18"),
        ({"hidden_size": 18, "num_heads": 6}, "the head dimension must be even for rotary embeddings, got 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        IMFTransformer(**TINY | {"aux_head_depth": 1} | arguments)


@pytest.mark.parametrize("key", ["input_size", "patch_size", "hidden_size", "num_heads", "num_classes"])
def test_sizes_are_at_least_1(key):
    with pytest.raises(ValueError, match=f"{key} must be at least 1, got 0"):
        IMFTransformer(**TINY | {"aux_head_depth": 1, key: 0})


def test_the_network_does_not_see_a_condition_without_tokens():
    z_t, t, r, cond, _ = problem()
    network = imf(num_tokens={"class": 3, "omega": 2, "t_min": 1, "t_max": 1, "time": 2})
    blind = imf(num_tokens={"class": 3, "omega": 0, "t_min": 1, "t_max": 1, "time": 2})
    other = cond._replace(omega=cond.omega + 1)
    assert network.num_prefix_tokens == 9
    assert not torch.equal(network(z_t, t, r, cond).u, network(z_t, t, r, other).u)
    assert torch.equal(blind(z_t, t, r, cond).u, blind(z_t, t, r, other).u)


def test_other_sizes_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="size must be one of B/2, M/2, L/2, XL/2; got 'S/2'"):
        IMFTransformer.from_size("S/2")


@pytest.mark.parametrize("absent", ["omega", "t_min", "t_max"])
def test_a_condition_without_guidance_is_refused(absent):
    z_t, t, r, cond, _ = problem()
    with pytest.raises(ValueError, match="needs omega, t_min and t_max in its condition"):
        imf()(z_t, t, r, cond._replace(**{absent: None}))
