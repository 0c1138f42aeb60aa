"""Measurements of operations, bytes and medians, for steps whose cost is known."""

import pytest
import torch
from torch import nn

from benchmarks.measure import count_flops, interleaved_medians, matmul_ceiling, saved_bytes
from meanflow.layers import Mlp


def test_fused_attention_counts_on_a_cpu_too():
    q, k, v = (torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 16 * 16 * 8
    attend = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(q, k, v)) == 2 * product
    # The backward pass makes the scores again, and then four products.
    assert count_flops(lambda: attend(q, k, v).sum().backward()) == 7 * product


def test_saved_bytes_count_each_storage_once_and_no_parameter():
    layer = nn.Linear(8, 4)
    x = torch.randn(16, 8)

    def forward():
        y = layer(x)  # keeps x and a view of the weight
        return y.exp().sum() + x[2:].mul(layer.weight[0]).sum()  # keeps exp(y), a view of x and a view of the weight

    assert saved_bytes(forward, layer.parameters()) == 4 * (16 * 8 + 16 * 4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_saved_bytes_of_forward_derivatives_count_tangents():
    layer = nn.Linear(8, 8)
    x = torch.randn(16, 8)
    plain = saved_bytes(lambda: layer(x).sin(), layer.parameters())
    both = saved_bytes(
        lambda: torch.func.jvp(lambda x: layer(x).sin(), (x,), (torch.ones_like(x),)), layer.parameters()
    )
    assert both > plain


def test_medians_are_of_each_step_run_in_turns():
    rounds = []
    steps = [rounds.append, lambda number: rounds.append(-number)]
    assert len(interleaved_medians(steps, torch.device("cpu"), least=1, most=3)) == 2
    assert rounds == [0, 0, 1, -1, 2, -2]


def test_when_enough_time_was_measured_no_round_begins_beyond_the_least():
    rounds = []
    interleaved_medians([rounds.append], torch.device("cpu"), least=2, most=9, enough=0.0)
    assert rounds == [0, 1]


def test_ceiling_is_positive():
    assert matmul_ceiling(torch.device("cpu"), torch.float32, size=32, repeats=2) > 0


def test_a_perceptron_counts_as_two_operations_per_weight_and_token():
    mlp = Mlp(32)
    flops = count_flops(lambda: mlp(torch.randn(5, 32)))
    assert flops == 2 * 5 * sum(parameter.numel() for parameter in mlp.parameters() if parameter.ndim == 2)
