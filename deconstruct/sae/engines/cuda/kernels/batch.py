"""Triton kernels that list the largest pre-activations of a whole batch, token after token.

The smallest of them, ``level``, is known: all above it are taken, and of those equal to it the
first, row by row. Groups of columns whose maximum is below it are not read.
"""

import triton
import triton.language as tl


@triton.jit
def _row_keys(pre, maxima, row, start, level, F, G, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """Columns from start on and their keys (see `topk`); 0 where the group has none to take."""
    cols = start + tl.arange(0, BLOCK)
    top = tl.load(maxima + row * G + cols // GROUP, mask=cols < F, other=0).to(tl.int32)
    wanted = (cols < F) & (top >= level) & (top > 0)
    bits = tl.load(pre + row * F + cols, mask=wanted, other=0)
    return cols, tl.maximum(bits.to(tl.int32), 0)


@triton.jit
def count_kernel(pre, maxima, level, counts, F, G, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """counts: int32 [B, 2], how many entries of a row are above level, and, if it is positive,
    equal to it; one program per row. pre: int16 bits [B, F]; maxima: int16 [B, G]; level: int32
    [1]."""
    row = tl.program_id(0).to(tl.int64)
    least = tl.load(level)
    above = tl.zeros((BLOCK,), dtype=tl.int32)
    tied = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in tl.range(0, F, BLOCK):
        _, key = _row_keys(pre, maxima, row, start, least, F, G, GROUP, BLOCK)
        above += (key > least).to(tl.int32)
        tied += ((key == least) & (least > 0)).to(tl.int32)
    tl.store(counts + 2 * row, tl.sum(above, axis=0))
    tl.store(counts + 2 * row + 1, tl.sum(tied, axis=0))


@triton.jit
def list_kernel(
    pre,
    maxima,
    level,
    room,
    token_ptr,
    index,
    value,
    token,
    F,
    G,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each row's pairs, by column: all above level, and the first ``room[row]`` equal to it.

    token_ptr: int32 [B + 1], where each row's begin; index, token: int32 [P]; value: float32 [P].
    """
    row = tl.program_id(0).to(tl.int64)
    least = tl.load(level)
    left = tl.load(room + row)
    to = tl.load(token_ptr + row)
    for start in tl.range(0, F, BLOCK):
        cols, key = _row_keys(pre, maxima, row, start, least, F, G, GROUP, BLOCK)
        tied = ((key == least) & (least > 0)).to(tl.int32)
        take = (key > least) | ((tied > 0) & (tl.cumsum(tied, axis=0) <= left))
        place = to + tl.cumsum(take.to(tl.int32), axis=0) - 1
        tl.store(index + place, cols, mask=take)
        tl.store(value + place, (key << 16).to(tl.float32, bitcast=True), mask=take)
        tl.store(token + place, tl.zeros((BLOCK,), tl.int32) + row.to(tl.int32), mask=take)
        left -= tl.minimum(tl.sum(tied, axis=0), left)
        to += tl.sum(take.to(tl.int32), axis=0)
