"""Kernel of attention and its tangent in one pass over the keys. Imports Triton.

With scores ``S = q k^T / sqrt(head_dim)``, their tangent ``dS = (dq k^T + q dk^T) / sqrt(head_dim)``, weights
``W = exp(S)`` and ``P = W / rowsum(W)``,

    out   = P v                                   = [W v] / [W 1]
    d_out = (P * dS) v + P dv - rowsum(P * dS) out = [(W * dS) v + W dv] / [W 1] - [(W * dS) 1] / [W 1] out.

Each bracket is a sum over keys in float32. The kernel rescales the sums when the running maximum of ``S`` grows, as in
online softmax (Milakov and Gimelshein, 2018, arXiv:1805.02867; Dao et al., 2022, arXiv:2205.14135). It stores no
``N x N`` matrix.
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
        return [triton.Config({"BLOCK_Q": 128, "BLOCK_K": 128})]
    return [
        triton.Config({"BLOCK_Q": block_q, "BLOCK_K": block_k}, num_warps=num_warps, num_stages=num_stages)
        for block_q, block_k, num_warps, num_stages in [
            (128, 64, 8, 2),
            (128, 32, 8, 3),
            (64, 64, 4, 2),
            (64, 32, 4, 2),
            (64, 32, 4, 3),
            (64, 32, 4, 3),  # for float32
        ]
    ]


@triton.autotune(
    _configs(),
    key=["HEAD_DIM", "WITH_TANGENT", "length_class"],
    prune_configs_by={"early_config_prune": fitting_configs},
)
@triton.heuristics({"WHOLE_BLOCKS": lambda arguments: arguments["length"] % arguments["BLOCK_K"] == 0})
@triton.jit
def attention_forward_kernel(
    q_pointer,
    k_pointer,
    v_pointer,
    dq_pointer,
    dk_pointer,
    dv_pointer,
    out_pointer,
    d_out_pointer,
    lse_pointer,
    q_strides,
    k_strides,
    v_strides,
    dq_strides,
    dk_strides,
    dv_strides,
    out_strides,
    num_heads,
    length,
    length_class,
    scale,
    HEAD_DIM: tl.constexpr,
    LO: tl.constexpr,
    HI: tl.constexpr,
    WITH_TANGENT: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WHOLE_BLOCKS: tl.constexpr,
):
    """Compute the outputs of ``BLOCK_Q`` queries of one head, in one program."""
    num_blocks = tl.cdiv(length, BLOCK_Q)
    block = tl.program_id(0) % num_blocks
    batch_and_head = tl.program_id(0) // num_blocks
    batch, head = batch_and_head // num_heads, batch_and_head % num_heads
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)

    q_pointer += head_offset(q_strides, batch, head, ALIGNMENT)
    k_pointer += head_offset(k_strides, batch, head, ALIGNMENT)
    v_pointer += head_offset(v_strides, batch, head, ALIGNMENT)
    out_pointer += head_offset(out_strides, batch, head, ALIGNMENT)
    q_lo = load_piece(q_pointer, q_strides, rows, length, 0, LO, HEAD_DIM, ALIGNMENT)
    out_lo = tl.zeros((BLOCK_Q, LO), tl.float32)
    if HI > 0:
        q_hi = load_piece(q_pointer, q_strides, rows, length, LO, HI, HEAD_DIM, ALIGNMENT)
        out_hi = tl.zeros((BLOCK_Q, HI), tl.float32)
    if WITH_TANGENT:
        dq_pointer += head_offset(dq_strides, batch, head, ALIGNMENT)
        dk_pointer += head_offset(dk_strides, batch, head, ALIGNMENT)
        dv_pointer += head_offset(dv_strides, batch, head, ALIGNMENT)
        d_out_pointer += head_offset(out_strides, batch, head, ALIGNMENT)
        dq_lo = load_piece(dq_pointer, dq_strides, rows, length, 0, LO, HEAD_DIM, ALIGNMENT)
        d_out_lo = tl.zeros((BLOCK_Q, LO), tl.float32)
        mean = tl.zeros((BLOCK_Q,), tl.float32)
        if HI > 0:
            dq_hi = load_piece(dq_pointer, dq_strides, rows, length, LO, HI, HEAD_DIM, ALIGNMENT)
            d_out_hi = tl.zeros((BLOCK_Q, HI), tl.float32)

    # Running maximum of the scores in units of log 2, for exp2.
    maximum = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    for first in range(0, length, BLOCK_K):
        columns = first + tl.arange(0, BLOCK_K)
        k_lo = load_piece(k_pointer, k_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
        scores = dot(q_lo, tl.trans(k_lo), tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), PRECISION)
        if HI > 0:
            k_hi = load_piece(k_pointer, k_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
            scores = dot(q_hi, tl.trans(k_hi), scores, PRECISION)
        if WITH_TANGENT:
            dk_lo = load_piece(dk_pointer, dk_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
            d_scores = dot(dq_lo, tl.trans(k_lo), tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), PRECISION)
            d_scores = dot(q_lo, tl.trans(dk_lo), d_scores, PRECISION)
            if HI > 0:
                dk_hi = load_piece(dk_pointer, dk_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
                d_scores = dot(dq_hi, tl.trans(k_hi), d_scores, PRECISION)
                d_scores = dot(q_hi, tl.trans(dk_hi), d_scores, PRECISION)

        if not WHOLE_BLOCKS:
            scores = tl.where(columns[None, :] < length, scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * (scale * LOG2_E))
        weights = tl.exp2(scores * (scale * LOG2_E) - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        maximum = new_maximum
        total = total * shrink + tl.sum(weights, 1)

        v_lo = load_piece(v_pointer, v_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
        low_weights = round_to(weights, v_lo.dtype)
        out_lo = dot(low_weights, v_lo, out_lo * shrink[:, None], PRECISION)
        if HI > 0:
            v_hi = load_piece(v_pointer, v_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
            out_hi = dot(low_weights, v_hi, out_hi * shrink[:, None], PRECISION)
        if WITH_TANGENT:
            d_weights = weights * (d_scores * scale)
            mean = mean * shrink + tl.sum(d_weights, 1)
            low_d_weights = round_to(d_weights, v_lo.dtype)
            dv_lo = load_piece(dv_pointer, dv_strides, columns, length, 0, LO, HEAD_DIM, ALIGNMENT)
            d_out_lo = dot(low_d_weights, v_lo, d_out_lo * shrink[:, None], PRECISION)
            d_out_lo = dot(low_weights, dv_lo, d_out_lo, PRECISION)
            if HI > 0:
                dv_hi = load_piece(dv_pointer, dv_strides, columns, length, LO, HI, HEAD_DIM, ALIGNMENT)
                d_out_hi = dot(low_d_weights, v_hi, d_out_hi * shrink[:, None], PRECISION)
                d_out_hi = dot(low_weights, dv_hi, d_out_hi, PRECISION)

    lse = (maximum + tl.log2(total)) / LOG2_E
    tl.store(lse_pointer + batch_and_head.to(tl.int64) * length + rows, lse, mask=rows < length)
    inverse = (1.0 / total)[:, None]
    out_lo = out_lo * inverse
    store_piece(out_pointer, out_strides, rows, length, out_lo, 0, LO, HEAD_DIM, ALIGNMENT)
    if HI > 0:
        out_hi = out_hi * inverse
        store_piece(out_pointer, out_strides, rows, length, out_hi, LO, HI, HEAD_DIM, ALIGNMENT)
    if WITH_TANGENT:
        mean = mean[:, None] * inverse
        d_out_lo = d_out_lo * inverse - mean * out_lo
        store_piece(d_out_pointer, out_strides, rows, length, d_out_lo, 0, LO, HEAD_DIM, ALIGNMENT)
        if HI > 0:
            d_out_hi = d_out_hi * inverse - mean * out_hi
            store_piece(d_out_pointer, out_strides, rows, length, d_out_hi, LO, HI, HEAD_DIM, ALIGNMENT)
