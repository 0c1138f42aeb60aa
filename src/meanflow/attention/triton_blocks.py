"""What the attention kernels share: tiles of heads, products of tiles, rounding. Imports Triton.

A head of 72 channels is no power of two, which tiles have to be. Padding it to 128 would waste 44 % of the arithmetic,
so a tile is two pieces: ``lo``, the largest power of two in the head, and ``hi``, the padded rest (72 = 64 + 8 of 16).
"""

from typing import Any

import triton
import triton.language as tl

# Whether the kernels are run by Triton's interpreter, on a CPU (fixed when Triton is imported).
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
MIN_WIDTH = 16  # of a tile in a product
MAX_HEAD_DIM = 128


def fitting_configs(configs: list[triton.Config], arguments: dict[str, Any], **_: Any) -> list[triton.Config]:
    """Keep the last configuration for float32, whose tiles take twice the memory, and the others for half precision."""
    return configs[-1:] if arguments["q_pointer"].element_size() == 4 else configs[:-1]


def piece_widths(head_dim: int) -> tuple[int, int]:
    """Return the widths of the two pieces of a head; the second is 0 where one is enough.

    Raises:
        ValueError: If the kernels do not know the head size.
    """
    if head_dim % 8 or not 8 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"head_dim must be a multiple of 8 up to {MAX_HEAD_DIM} with attention=triton, got {head_dim}")
    if head_dim <= MIN_WIDTH:
        return MIN_WIDTH, 0
    low = 1 << (head_dim.bit_length() - 1)
    rest = head_dim - low
    return low, max(MIN_WIDTH, triton.next_power_of_2(rest)) if rest else 0


@triton.jit
def head_offset(strides, batch, head, ALIGNMENT: tl.constexpr):
    """Return where a head begins; strides are of (batch, head, row), in units of ``ALIGNMENT``.

    The factor tells the compiler what divides the address, on which the width of loads depends.
    """
    return (batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]) * ALIGNMENT


@triton.jit
def load_piece(
    base,
    strides,
    rows,
    length,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Load ``WIDTH`` channels from ``FIRST`` on of some rows; what lies outside the head or the sequence is 0."""
    columns = FIRST + tl.arange(0, WIDTH)
    mask = rows[:, None] < length
    if FIRST + WIDTH > HEAD_DIM:
        mask = mask & (columns[None, :] < HEAD_DIM)
    pointers = base + rows[:, None] * (strides[2] * ALIGNMENT) + columns[None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store_piece(
    base,
    strides,
    rows,
    length,
    value,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ALIGNMENT: tl.constexpr,
):
    """Store what ``load_piece`` would load."""
    columns = FIRST + tl.arange(0, WIDTH)
    mask = rows[:, None] < length
    if FIRST + WIDTH > HEAD_DIM:
        mask = mask & (columns[None, :] < HEAD_DIM)
    pointers = base + rows[:, None] * (strides[2] * ALIGNMENT) + columns[None, :]
    tl.store(pointers, round_to(value, base.dtype.element_ty), mask=mask)


@triton.jit
def dot(a, b, accumulator, PRECISION: tl.constexpr):
    """Return ``accumulator + a b`` in float32."""
    if INTERPRETED:
        # The interpreter multiplies the bits of bfloat16 as integers.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """Round float32 to the nearest number of ``DTYPE``."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        # The interpreter truncates; a device rounds to nearest, ties to even.
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(DTYPE)
