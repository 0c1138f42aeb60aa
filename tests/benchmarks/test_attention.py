"""The benchmark of attention: all measured values except times."""

import json

import pytest
import torch

from benchmarks.attention import Row, Shape, main, make_inputs, relative_errors, report


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_machine_without_a_gpu_is_refused(capsys):
    assert main([]) == 1
    assert capsys.readouterr().err == "error: benchmarks.attention needs a CUDA device\n"


def test_inputs_lie_in_memory_as_in_a_network():
    q, k, v, dq, _, _, g = make_inputs(Shape(2, 3, 5, 8), torch.float16, "cpu")
    assert all(x.shape == (2, 3, 5, 8) and x.dtype == torch.float16 for x in (q, k, v, dq, g))
    assert q.stride() == (5 * 3 * 3 * 8, 8, 3 * 3 * 8, 1)
    assert not torch.equal(q, dq)


def test_rates_and_ratios(capsys):
    shape = Shape(2, 3, 5, 8)
    assert shape.product_flops == 2 * 2 * 3 * 5 * 5 * 8
    rows = [Row("small", "forward cudnn", 1e-3, 10**9), Row("small", "forward flash", 2e-3, 10**9)]
    report(iter([*rows, Row("small", "dual triton", 3e-3, 6 * 10**9)]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2] for line in lines] == ["1.00", "2.00", "3.00"]
    assert lines[-1].split()[3:7] == ["3000.0", "us", "2.0", "TFLOP/s"]


def test_rows_as_json(capsys):
    report([Row("small", "forward cudnn", 1e-3, 10**9), Row("small", "dual triton", 3e-3, 6 * 10**9)], as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == {
        "network": "small",
        "kernel": "dual triton",
        "device": "cuda",
        "microseconds": pytest.approx(3000),
        "tflops": pytest.approx(2),
        "ratio_to_sdpa_forward": pytest.approx(3),
    }


def test_errors_are_relative_to_the_exact_result():
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    errors = relative_errors(Shape(1, 1, 20, 24), torch.float32, device)
    assert list(errors) == ["out", "d_out", "grad_q", "grad_k", "grad_v"]
    assert all(0 < ours < 1e-5 and 0 < reference < 1e-5 for ours, reference in errors.values())
