"""Parts of the attention kernels: tiles of heads, products of tiles, rounding. Imports Triton.

The width of a tile must be a power of two. A head of 72 channels, padded to 128, would waste 44 % of the arithmetic. A
tile therefore has two pieces: ``lo``, as wide as the largest power of two in the head, and ``hi``, the padded rest
(72 = 64 + 8 of 16).
"""

import triton
import triton.language as tl
from torch import Tensor

# Whether Triton's interpreter runs the kernels, on a CPU. Importing Triton fixes it.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
MIN_WIDTH = 16  # least width of a tile in a product
MAX_HEAD_DIM = 128


def fitting_configs(configs: list[triton.Config], arguments: dict[str, Tensor], **_: object) -> list[triton.Config]:
    """Return the last configuration for float32, whose tiles take twice the memory; the others for half precision."""
    return configs[-1:] if arguments["q_pointer"].element_size() == 4 else configs[:-1]


def piece_widths(head_dim: int) -> tuple[int, int]:
    """Return the widths of the two pieces of a head; the second width is 0 if one piece is enough.

    Raises:
        ValueError: If ``head_dim`` is not a multiple of 8 up to 128.
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
    """Return the offset of a head. Strides are of (batch, head, row), in units of ``ALIGNMENT``.

    The factor ``ALIGNMENT`` tells the compiler a divisor of the address. Larger divisors allow wider loads.
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
    """Load channels ``FIRST`` to ``FIRST + WIDTH`` of some rows. Entries beyond the head or the sequence are 0."""
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
    """Store channels ``FIRST`` to ``FIRST + WIDTH`` of some rows. Entries beyond the head or sequence are left out."""
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
        # The interpreter would multiply the bits of bfloat16 as integers.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """Round float32 to the nearest number of ``DTYPE``."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        # The interpreter truncates. A device rounds to nearest, ties to even.
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(DTYPE)
