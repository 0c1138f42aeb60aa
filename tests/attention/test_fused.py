"""Backends with fused kernels for duals: whole networks, ``torch.compile``, activation checkpointing, names."""

import importlib.util
import pickle

import pytest
import torch

from meanflow.attention import BACKENDS, get_attention, reference_attention, sdpa_attention
from meanflow.dual import Dual
from meanflow.objectives.derivative import value_and_derivative
from tests.attention.devices import DEVICES
from tests.duals import normal
from tests.networks import dmf, guided, imf, inputs

pytest.importorskip("triton")

# Rounding of float32 through a few layers, relative to the largest entry.
FLOAT32_ERROR = 1e-5


def assert_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert (a.double() - b.double()).abs().max() <= FLOAT32_ERROR * b.double().abs().max()


def duals(device, dtype=torch.float32, shape=(2, 2, 10, 16)):
    tensors = [normal(*shape, seed=seed).to(device, dtype) for seed in range(6)]
    return [Dual(p.requires_grad_(), d) for p, d in zip(tensors[:3], tensors[3:], strict=True)]


def value_tangent_and_gradients(attention, arguments):
    out = attention(*arguments)
    assert not out.tangent.requires_grad
    return [out.primal, out.tangent, *torch.autograd.grad(out.primal.square().sum(), [x.primal for x in arguments])]


def network_results(network, device, dtype, compiled=False):
    z_t, t, r, cond, v = inputs(batch_size=2)
    cond = guided(cond)
    z_t, t, r, v = (x.to(device, dtype) for x in (z_t, t, r, v))
    cond = cond._replace(
        y=cond.y.to(device), **{key: getattr(cond, key).to(device, dtype) for key in ("omega", "t_min", "t_max")}
    )
    network.to(device, dtype)
    if compiled:
        network.compile(fullgraph=True, backend="aot_eager")
    output, du_dt = value_and_derivative(network, z_t, t, r, cond, v)
    others = [x for key, x in output._asdict().items() if key != "u" and x is not None]
    loss = sum(x.square().sum() for x in (output.u, *others))
    return [output.u, *others, du_dt, *torch.autograd.grad(loss, list(network.parameters()))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("make", [dmf, imf])
def test_a_network_equals_that_with_the_reference(device, make, checkpointing):
    variant = {"activation_checkpointing": checkpointing}
    expected = network_results(make(attention="reference", **variant), device, torch.float64)
    actual = network_results(make(attention="triton", **variant), device, torch.float32)
    for ours, exact in zip(actual, expected, strict=True):
        assert (ours.double() - exact).abs().max() <= 1e-4 * max(exact.abs().max(), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated")
@pytest.mark.usefixtures("fresh_compiler")
def test_a_network_compiles_as_one_graph(device):
    variant = {"depth": 2, "dmf_depth": 1, "activation_checkpointing": True, "attention": "triton"}
    expected = network_results(dmf(**variant), device, torch.float32)
    actual = network_results(dmf(**variant), device, torch.float32, compiled=True)
    for ours, eager in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_as_one_graph(device, dynamic):
    backend = "aot_eager" if device == "cpu" else "inductor"
    compiled = torch.compile(get_attention("triton"), fullgraph=True, dynamic=dynamic, backend=backend)
    for length in (10, 13):
        arguments = duals(device, shape=(2, 2, length, 16))
        assert_close(
            value_tangent_and_gradients(compiled, arguments),
            value_tangent_and_gradients(get_attention("triton"), arguments),
        )


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_go_to_torch(device):
    arguments = [x.primal for x in duals(device)]
    assert torch.equal(get_attention("triton")(*arguments), sdpa_attention(*arguments))
    # The other kernels that torch has for a CPU and for float32; flash is one of them on a CPU only.
    name = "flash" if device == "cpu" else "efficient"
    compiled = torch.compile(get_attention(name), fullgraph=True, backend="aot_eager")
    expected = reference_attention(*arguments)
    torch.testing.assert_close(get_attention(name)(*arguments), expected)
    torch.testing.assert_close(compiled(*arguments), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["triton", "cudnn", "flash", "efficient", "fa2", "fa3"])
def test_kernels_for_tensors_on_a_gpu(name):
    try:
        attention = get_attention(name)
    except ImportError as error:
        pytest.skip(str(error))
    arguments = [x.primal for x in duals("cuda", torch.bfloat16, shape=(2, 3, 276, 72))]
    actual, expected = attention(*arguments), reference_attention(*(x.double() for x in arguments))
    error = (actual.double() - expected).square().mean()
    assert error <= (reference_attention(*arguments).double() - expected).square().mean()
    gradients = torch.autograd.grad(actual.float().square().sum(), arguments)
    truth = torch.autograd.grad(expected.square().sum(), arguments)
    for ours, exact in zip(gradients, truth, strict=True):
        assert (ours - exact).norm() <= 0.02 * exact.norm()


@pytest.mark.parametrize("device", DEVICES)
def test_duals_of_all_names_go_to_the_kernel(device):
    arguments = duals(device, shape=(1, 1, 10, 16))
    expected = value_tangent_and_gradients(BACKENDS["triton"], arguments)
    for name in ("cudnn", "flash", "efficient", "fa2", "fa3"):
        assert_close(value_tangent_and_gradients(BACKENDS[name], arguments), expected)


@pytest.mark.parametrize(
    ("name", "module"),
    [("triton", "triton"), ("cudnn", "triton"), ("fa2", "flash_attn"), ("fa3", "flash_attn_interface")],
)
def test_a_missing_package_is_named(monkeypatch, name, module):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("meanflow.attention.find_spec", lambda key: None if key == module else find_spec(key))
    with pytest.raises(ImportError, match=f"attention={name} needs .*no module '{module}'"):
        get_attention(name)


def test_backends_can_be_pickled():
    for name, backend in BACKENDS.items():
        assert pickle.loads(pickle.dumps(backend)) == backend, name
