"""Kernels of the gradient of attention. Imports Triton.

With ``P = exp(S - lse)``, ``dP = g v^T`` for the incoming gradient ``g``, and ``delta = rowsum(g * out)``, the scores
have the gradient ``G = P * (dP - delta)``, and

    grad_v = P^T g,    grad_q = G k / sqrt(head_dim),    grad_k = G^T q / sqrt(head_dim)

(Dao et al., 2022, arXiv:2205.14135). The gradient of a query is a sum over keys. The gradient of a key or a value is a
sum over queries. Two kernels compute the two sums without atomic additions, which makes the result the same in every
run. The first kernel stores ``delta`` for the second.
"""

import triton
import triton.language as tl

from meanflow.attention.triton_blocks import (
    INTERPRETED,
    dot,
    fitting_configs,
    head_offset,
    load_piece,
    round_to,
    store_piece,
)

LOG2_E = tl.constexpr(1.4426950408889634)


def _configs() -> list[triton.Config]:
    if INTERPRETED:
        return [triton.Config({"BLOCK": 256, "BLOCK_INNER": 128})]  # few steps, because each step is slow
    return [
        triton.Config({"BLOCK": block, "BLOCK_INNER": inner}, num_warps=num_warps, num_stages=num_stages)
        for block, inner, num_warps, num_stages in [
            (128, 64, 8, 2),
            (64, 64, 4, 2),
            (64, 32, 4, 3),
            (128, 32, 8, 3),
            (64, 32, 4, 3),  # for float32
        ]
    ]


@triton.autotune(_configs(), key=["HEAD_DIM", "length_class"], prune_configs_by={"early_config_prune": fitting_configs})
@triton.heuristics({"WHOLE_BLOCKS": lambda arguments: arguments["length"] % arguments["BLOCK_INNER"] == 0})
@triton.jit
def grad_q_kernel(
    g_pointer,
    q_pointer,
    k_pointer,
    v_pointer,
    out_pointer,
    lse_pointer,
    delta_pointer,
    grad_q_pointer,
    g_strides,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    grad_strides,
    num_heads,
    length,
    length_class,
    scale,
    HEAD_DIM: tl.constexpr,
    LO: tl.constexpr,
    HI: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr,
):
    """Compute the gradients and ``delta`` of ``BLOCK`` queries of one head, in one program."""
    num_blocks = tl.cdiv(length, BLOCK)
    block = tl.program_id(0) % num_blocks
    batch_and_head = tl.program_id(0) // num_blocks
    batch, head = batch_and_head // num_heads, batch_and_head % num_heads
    rows = block * BLOCK + tl.arange(0, BLOCK)

    g_pointer += head_offset(g_strides, batch, head, ALIGNMENT)
    q_pointer += head_offset(q_strides, batch, head, ALIGNMENT)
    k_pointer += head_offset(k_strides, batch, head, ALIGNMENT)
    v_pointer += head_offset(v_strides, batch, head, ALIGNMENT)
    out_pointer += head_offset(out_strides, batch, head, ALIGNMENT)
    grad_q_pointer += head_offset(grad_strides, batch, head, ALIGNMENT)
    g_lo = load_piece(g_pointer, g_strides, rows, length, 0, LO, HEAD_DIM, ALIGNMENT)
    q_lo = load_piece(q_pointer, q_strides, rows, length, 0, LO, HEAD_DIM, ALIGNMENT)
    out_lo = load_piece(out_pointer, out_strides, rows, length, 0, LO, HEAD_DIM, ALIGNMENT)
    delta = tl.sum(g_lo.to(tl.float32) * out_lo.to(tl.float32), 1)
    grad_q_lo = tl.zeros((BLOCK, LO), tl.float32)
    if HI > 0:
        g_hi = load_piece(g_pointer, g_strides, rows, length, LO, HI, HEAD_DIM, ALIGNMENT)
        q_hi = load_piece(q_pointer, q_strides, rows, length, LO, HI, HEAD_DIM, ALIGNMENT)
        out_hi = load_piece(out_pointer, out_strides, rows, length, LO, HI, HEAD_DIM, ALIGNMENT)
        delta += tl.sum(g_hi.to(tl.float32) * out_hi.to(tl.float32), 1)
        grad_q_hi = tl.zeros((BLOCK, HI), tl.float32)
    statistics = batch_and_head.to(tl.int64) * length + rows
    tl.store(delta_pointer + statistics, delta, mask=rows < length)
    lse = tl.load(lse_pointer + statistics, mask=rows < length, other=0.0) * LOG2_E

    for first in range(0, length, BLOCK_INNER):
        columns = first + tl.arange(0, BLOCK_INNER)
        k_lo = load_piece(k_pointer, k_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
        v_lo = load_piece(v_pointer, v_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
        scores = dot(q_lo, tl.trans(k_lo), tl.zeros((BLOCK, BLOCK_INNER), tl.float32), PRECISION)
        grad_p = dot(g_lo, tl.trans(v_lo), tl.zeros((BLOCK, BLOCK_INNER), tl.float32), PRECISION)
        if HI > 0:
            k_hi = load_piece(k_pointer, k_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
            v_hi = load_piece(v_pointer, v_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
            scores = dot(q_hi, tl.trans(k_hi), scores, PRECISION)
            grad_p = dot(g_hi, tl.trans(v_hi), grad_p, PRECISION)
        if not WHOLE_BLOCKS:
            scores = tl.where(columns[None, :] < length, scores, float("-inf"))
        p = tl.exp2(scores * (scale * LOG2_E) - lse[:, None])
        grad_scores = round_to(p * (grad_p - delta[:, None]), k_lo.dtype)
        grad_q_lo = dot(grad_scores, k_lo, grad_q_lo, PRECISION)
        if HI > 0:
            grad_q_hi = dot(grad_scores, k_hi, grad_q_hi, PRECISION)

    store_piece(grad_q_pointer, grad_strides, rows, length, grad_q_lo * scale, 0, LO, HEAD_DIM, ALIGNMENT)
    if HI > 0:
        store_piece(grad_q_pointer, grad_strides, rows, length, grad_q_hi * scale, LO, HI, HEAD_DIM, ALIGNMENT)


@triton.autotune(_configs(), key=["HEAD_DIM", "length_class"], prune_configs_by={"early_config_prune": fitting_configs})
@triton.jit
def grad_kv_kernel(
    g_pointer,
    q_pointer,
    k_pointer,
    v_pointer,
    lse_pointer,
    delta_pointer,
    grad_k_pointer,
    grad_v_pointer,
    g_strides,
    q_strides,
    k_strides,
    v_strides,
    grad_strides,
    num_heads,
    length,
    length_class,
    scale,
    HEAD_DIM: tl.constexpr,
    LO: tl.constexpr,
    HI: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    """Compute the gradients of ``BLOCK`` keys and values of one head, in one program."""
    num_blocks = tl.cdiv(length, BLOCK)
    block = tl.program_id(0) % num_blocks
    batch_and_head = tl.program_id(0) // num_blocks
    batch, head = batch_and_head // num_heads, batch_and_head % num_heads
    columns = block * BLOCK + tl.arange(0, BLOCK)

    g_pointer += head_offset(g_strides, batch, head, ALIGNMENT)
    q_pointer += head_offset(q_strides, batch, head, ALIGNMENT)
    k_pointer += head_offset(k_strides, batch, head, ALIGNMENT)
    v_pointer += head_offset(v_strides, batch, head, ALIGNMENT)
    grad_k_pointer += head_offset(grad_strides, batch, head, ALIGNMENT)
    grad_v_pointer += head_offset(grad_strides, batch, head, ALIGNMENT)
    lse_pointer += batch_and_head.to(tl.int64) * length
    delta_pointer += batch_and_head.to(tl.int64) * length
    k_lo = load_piece(k_pointer, k_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
    v_lo = load_piece(v_pointer, v_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
    grad_k_lo = tl.zeros((BLOCK, LO), tl.float32)
    grad_v_lo = tl.zeros((BLOCK, LO), tl.float32)
    if HI > 0:
        k_hi = load_piece(k_pointer, k_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
        v_hi = load_piece(v_pointer, v_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
        grad_k_hi = tl.zeros((BLOCK, HI), tl.float32)
        grad_v_hi = tl.zeros((BLOCK, HI), tl.float32)

    for first in range(0, length, BLOCK_INNER):
        rows = first + tl.arange(0, BLOCK_INNER)
        q_lo = load_piece(q_pointer, q_strides, rows, length, 0, LO, HEAD_DIM, ALIGNMENT)
        g_lo = load_piece(g_pointer, g_strides, rows, length, 0, LO, HEAD_DIM, ALIGNMENT)
        # Scores are transposed, keys by queries. Beyond the sequence the log-sum-exp is infinite and P is 0.
        lse = tl.load(lse_pointer + rows, mask=rows < length, other=float("inf")) * LOG2_E
        delta = tl.load(delta_pointer + rows, mask=rows < length, other=0.0)
        scores = dot(k_lo, tl.trans(q_lo), tl.zeros((BLOCK, BLOCK_INNER), tl.float32), PRECISION)
        grad_p = dot(v_lo, tl.trans(g_lo), tl.zeros((BLOCK, BLOCK_INNER), tl.float32), PRECISION)
        if HI > 0:
            q_hi = load_piece(q_pointer, q_strides, rows, length, LO, HI, HEAD_DIM, ALIGNMENT)
            g_hi = load_piece(g_pointer, g_strides, rows, length, LO, HI, HEAD_DIM, ALIGNMENT)
            scores = dot(k_hi, tl.trans(q_hi), scores, PRECISION)
            grad_p = dot(v_hi, tl.trans(g_hi), grad_p, PRECISION)
        p = tl.exp2(scores * (scale * LOG2_E) - lse[None, :])
        low_p = round_to(p, g_lo.dtype)
        grad_scores = round_to(p * (grad_p - delta[None, :]), q_lo.dtype)
        grad_v_lo = dot(low_p, g_lo, grad_v_lo, PRECISION)
        grad_k_lo = dot(grad_scores, q_lo, grad_k_lo, PRECISION)
        if HI > 0:
            grad_v_hi = dot(low_p, g_hi, grad_v_hi, PRECISION)
            grad_k_hi = dot(grad_scores, q_hi, grad_k_hi, PRECISION)

    store_piece(grad_k_pointer, grad_strides, columns, length, grad_k_lo * scale, 0, LO, HEAD_DIM, ALIGNMENT)
    store_piece(grad_v_pointer, grad_strides, columns, length, grad_v_lo, 0, LO, HEAD_DIM, ALIGNMENT)
    if HI > 0:
        store_piece(grad_k_pointer, grad_strides, columns, length, grad_k_hi * scale, LO, HI, HEAD_DIM, ALIGNMENT)
        store_piece(grad_v_pointer, grad_strides, columns, length, grad_v_hi, LO, HI, HEAD_DIM, ALIGNMENT)
