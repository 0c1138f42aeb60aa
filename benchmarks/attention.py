"""Time and TFLOP/s of the attention kernels, and the error of the fused kernel.

    python -m benchmarks.attention [--shapes dmf_xl_2_256 ...]

FLOPs count the matrix products of the method. Padding and repeated computations of a kernel do not count. With
``F = 2 B heads N^2 head_dim`` for each product, the forward pass has 2 F, the forward pass with the tangent has 6 F
(q k, dq k, q dk; P v, dP v, P dv), and the backward pass has 5 F. A ratio is the time divided by the time of the
fastest forward pass of torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.timing import gpu_seconds
from meanflow.attention.reference import reference_attention
from meanflow.attention.sdpa import cudnn_attention, efficient_attention, flash_attention
from meanflow.attention.triton_operator import fused_attention, fused_attention_backward
from meanflow.dual import Dual

FORWARD = {"cudnn": cudnn_attention, "flash": flash_attention, "efficient": efficient_attention}


class Shape(NamedTuple):
    """Queries, keys and values ``(B, heads, N, head_dim)`` of a network at a batch size."""

    batch: int
    heads: int
    length: int
    head_dim: int

    @property
    def product_flops(self) -> int:
        """FLOPs of ``q k^T`` or ``P v``."""
        return 2 * self.batch * self.heads * self.length**2 * self.head_dim


SHAPES = {
    "dmf_xl_2_256": Shape(32, 16, 256, 72),
    "imf_xl_2_256": Shape(32, 16, 276, 64),
    "dmf_xl_2_512": Shape(8, 16, 1024, 72),
}


class Row(NamedTuple):
    """One measurement."""

    shape: str
    kernel: str
    seconds: float
    flops: int

    @property
    def tflops(self) -> float:
        """10^12 FLOPs per second."""
        return self.flops / self.seconds / 1e12


def make_inputs(shape: Shape, dtype: torch.dtype, device: str, seed: int = 0) -> list[Tensor]:
    """Return q, k, v, their tangents and a gradient of the output, normal, laid out as by a network's ``qkv``."""
    generator = torch.Generator(device).manual_seed(seed)

    def heads(count: int) -> tuple[Tensor, ...]:
        size = (shape.batch, shape.length, count, shape.heads, shape.head_dim)
        return torch.randn(size, generator=generator, device=device).to(dtype).permute(2, 0, 3, 1, 4).unbind()

    return [*heads(3), *heads(3), *heads(1)]


def aten_backward(name: str, g: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Any:
    """Call the backward pass of torch's ``flash`` or ``cudnn`` attention on our output and log-sum-exp."""
    length = q.shape[2]
    if name == "flash":
        seed = torch.empty(2, dtype=torch.uint64, device=q.device)  # of dropout
        return torch.ops.aten._scaled_dot_product_flash_attention_backward(
            g, q, k, v, out, lse, None, None, length, length, 0.0, False, seed, seed
        )
    seed = torch.empty((), dtype=torch.int64, device=q.device)
    return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        g, q, k, v, out, lse.unsqueeze(-1), seed, seed, None, None, None, length, length, 0.0, False
    )


def measure(name: str, shape: Shape, dtype: torch.dtype) -> Iterator[Row]:
    """Time forward, dual and backward passes of one shape; a kernel that torch refuses is reported and left out."""
    q, k, v, dq, dk, dv, g = make_inputs(shape, dtype, "cuda")
    duals = [Dual(*pair) for pair in ((q, dq), (k, dk), (v, dv))]
    out, _, lse = fused_attention(q, k, v, dq, dk, dv)
    flops = shape.product_flops
    cases: list[tuple[str, int, Callable[[], Any]]] = [
        *((f"forward {label}", 2, lambda f=function: f(q, k, v)) for label, function in FORWARD.items()),
        ("forward triton", 2, lambda: fused_attention(q, k, v, None, None, None)),
        ("dual triton", 6, lambda: fused_attention(q, k, v, dq, dk, dv)),
        ("dual reference", 6, lambda: reference_attention(*duals)),
        *((f"backward {b}", 5, lambda b=b: aten_backward(b, g, q, k, v, out, lse)) for b in ("flash", "cudnn")),
        ("backward triton", 5, lambda: fused_attention_backward(g, q, k, v, out, lse)),
    ]
    for label, products, function in cases:
        try:
            with torch.no_grad():
                yield Row(name, label, gpu_seconds(function), products * flops)
        except RuntimeError as error:
            print(f"{name} {label}: {str(error).splitlines()[0]}", file=sys.stderr)


def relative_errors(shape: Shape, dtype: torch.dtype, device: str) -> dict[str, tuple[float, float]]:
    """Return the largest error over the largest entry of the fused attention and of the reference in ``dtype``.

    Both are compared with the reference in float64, in value, tangent and gradients.
    """
    inputs = make_inputs(shape, dtype, device)

    def reference(wide: torch.dtype) -> list[Tensor]:
        q, k, v, dq, dk, dv, g = (x.to(wide) for x in inputs)
        primals = [x.requires_grad_() for x in (q, k, v)]
        dual: Any = reference_attention(*(Dual(p, d) for p, d in zip(primals, (dq, dk, dv), strict=True)))
        return [dual.primal, dual.tangent, *torch.autograd.grad(dual.primal, primals, g)]

    q, k, v, dq, dk, dv, g = inputs
    out, d_out, lse = fused_attention(q, k, v, dq, dk, dv)
    fused = [out, d_out, *fused_attention_backward(g, q, k, v, out, lse)]
    errors = {}
    names = ("out", "d_out", "grad_q", "grad_k", "grad_v")
    for name, ours, low, truth in zip(names, fused, reference(dtype), reference(torch.float64), strict=True):
        errors[name] = (_relative(ours, truth), _relative(low, truth))
    return errors


def _relative(actual: Tensor, truth: Tensor) -> float:
    return ((actual.double() - truth).abs().max() / truth.abs().max()).item()


def report(rows: Iterable[Row], as_json: bool = False) -> None:
    """Print each row when it is there, with its ratio to the fastest forward pass of torch so far for its shape."""
    fastest: dict[str, float] = {}
    for row in rows:
        if row.kernel.removeprefix("forward ") in FORWARD:
            fastest[row.shape] = min(row.seconds, fastest.get(row.shape, row.seconds))
        ratio = row.seconds / fastest[row.shape] if row.shape in fastest else None
        if as_json:
            measured = {"microseconds": row.seconds * 1e6, "tflops": row.tflops, "ratio_to_sdpa_forward": ratio}
            print(json.dumps({"network": row.shape, "kernel": row.kernel, "device": "cuda"} | measured), flush=True)
            continue
        times = "" if ratio is None else f"{ratio:6.2f} x"
        print(
            f"{row.shape:13} {row.kernel:20} {row.seconds * 1e6:9.1f} us {row.tflops:7.1f} TFLOP/s {times}", flush=True
        )


def main(arguments: list[str] | None = None) -> int:
    """Print the measurements; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="which networks (all)")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--json", action="store_true", help="print times as lines of JSON, and no errors")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: benchmarks.attention needs a CUDA device", file=sys.stderr)
        return 1
    dtype = getattr(torch, options.dtype)
    if options.json:
        for name in options.shapes:
            report(measure(name, SHAPES[name], dtype), as_json=True)
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.dtype}")
    for name in options.shapes:
        shape = SHAPES[name]
        for quantity, (ours, low) in relative_errors(shape._replace(batch=1), dtype, "cuda").items():
            print(f"{name:13} error of {quantity:7} {ours:.1e} fused, {low:.1e} reference in {options.dtype}")
        report(measure(name, shape, dtype))
    return 0


if __name__ == "__main__":
    sys.exit(main())
