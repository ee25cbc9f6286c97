"""Triton kernels, first half of a step: encoder product and exact top-k.

Needs Triton at import. Nothing here allocates, and nothing here adds floats with atomics: the
same inputs give the same bytes on every run of one GPU model and one Triton version.

Exact top-k in two levels. Cut a row into groups. The k groups with the largest maxima, ties won
by the lower index, hold the row's k largest entries, ties won by the lower index: any entry
outside them is preceded by one entry from each of k groups. So one pass takes maxima (in the
product's epilogue if it can), and only k groups of a row are ever read again. The k-th largest
of a few thousand 15-bit keys is found by building it bit by bit, 15 counts.

A bfloat16 read as int16 orders like the float it is where it is not negative, and negative ones
are cut by the ReLU: so ``max(bits, 0)`` is the key, and a key of 0 is a latent that does not fire.
"""

import triton
import triton.language as tl


@triton.jit
def upper_half(bits, carry):
    """The bits, int16, of a bfloat16: those of a float32, int32, with ``carry`` in 0..65535 added.

    What is no number stays none: there the sum would run over into exponent and sign, NVIDIA's
    0x7FFFFFFF would become minus zero, and a training that has diverged would look well.
    """
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return tl.where(nan, (bits >> 16) | 0x40, (bits + carry) >> 16).to(tl.int16)


@triton.jit
def bf16_bits(value):
    """The bits, int16, of float32s rounded to the nearest bfloat16, ties to even.

    As the hardware and torch round; Triton's interpreter cuts, and copies of weights that are made
    anew after a resume would differ from those that the steps wrote.
    """
    bits = value.to(tl.int32, bitcast=True)
    return upper_half(bits, 0x7FFF + ((bits >> 16) & 1))


@triton.jit
def center_kernel(x, b_dec, out, step, total, D, BLOCK: tl.constexpr):
    """``out = x - b_dec``, bf16 bits, over a [B, D] batch of ``total`` entries; raises ``step``."""
    if tl.program_id(0) == 0:
        tl.store(step, tl.load(step) + 1)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(b_dec + at % D, mask=inside, other=0.0)
    tl.store(out + at, bf16_bits(value - bias), mask=inside)


@triton.jit
def _encode_store(
    acc,
    pre_desc,
    bias,
    maxima,
    m0,
    n0,
    B,
    F,
    G,
    BM: tl.constexpr,
    BN: tl.constexpr,
    GROUP: tl.constexpr,
):
    cols = n0 + tl.arange(0, BN)
    acc += tl.load(bias + cols, mask=cols < F, other=0.0).to(tl.float32)[None, :]
    acc = tl.where(cols[None, :] < F, acc, 0.0)
    pre_desc.store([m0, n0], acc.to(tl.bfloat16))
    top = tl.max(tl.reshape(acc, (BM, BN // GROUP, GROUP)), axis=2)
    # Rounding is monotone: the maximum rounded is the maximum of the rounded.
    key = tl.maximum(top, 0.0).to(tl.bfloat16).to(tl.int16, bitcast=True)
    rows = m0 + tl.arange(0, BM)
    groups = n0 // GROUP + tl.arange(0, BN // GROUP)
    inside = (rows < B)[:, None] & (groups < G)[None, :]
    tl.store(maxima + rows.to(tl.int64)[:, None] * G + groups[None, :], key, mask=inside)


@triton.jit
def encode_kernel(
    x_desc,
    w_desc,
    pre_desc,
    bias,
    maxima,
    B,
    F,
    D,
    G,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    BAND: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """``pre = x @ W.T + bias`` in bf16 [B, F], and the ReLU'd maximum of each GROUP columns.

    x [B, D] and W [F, D] come as TMA descriptors. One or two programs per multiprocessor walk over
    tiles, BAND tile rows at a time, so that W's tiles are read once per band. maxima: int16 [B, G].
    """
    tiles_m = tl.cdiv(B, BM)
    tiles_n = tl.cdiv(F, BN)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=True):
        band = tile // (BAND * tiles_n)
        rows_here = tl.minimum(tiles_m - band * BAND, BAND)
        within = tile % (BAND * tiles_n)
        m0 = (band * BAND + within % rows_here) * BM
        n0 = (within // rows_here) * BN
        acc = tl.zeros((BM, BN), dtype=tl.float32)
        for k0 in range(0, D, BK):
            acc = tl.dot(x_desc.load([m0, k0]), w_desc.load([n0, k0]).T, acc)
        # In two halves: the buffer that a store goes through is half as large, which leaves
        # shared memory for one more stage of operands.
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
        _encode_store(left, pre_desc, bias, maxima, m0, n0, B, F, G, BM, BN // 2, GROUP)
        _encode_store(right, pre_desc, bias, maxima, m0, n0 + BN // 2, B, F, G, BM, BN // 2, GROUP)


@triton.jit
def group_max_kernel(pre, maxima, F, G, GROUP: tl.constexpr, BLOCK_G: tl.constexpr):
    """ReLU'd maximum of each GROUP columns of a row; ceil(G / BLOCK_G) programs per row.

    pre: int16 bits [B, F]; maxima [B, G].
    """
    programs = tl.cdiv(G, BLOCK_G)
    row = (tl.program_id(0) // programs).to(tl.int64)
    groups = tl.program_id(0) % programs * BLOCK_G + tl.arange(0, BLOCK_G)
    cols = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    bits = tl.load(pre + row * F + cols, mask=cols < F, other=0)
    top = tl.maximum(tl.max(bits, axis=1), 0)
    tl.store(maxima + row * G + groups, top.to(tl.int16), mask=groups < G)


@triton.jit
def _take_top(key, K, low, high):
    """(mask of the K largest positive keys, ties to the lower index; rank by index of each).

    low <= high bracket the K-th largest key; low is 0 where fewer than K keys may be positive.
    K: up to 1024; keys: below 2^21 of them.
    """
    while low < high:
        trial = (low + high + 1) // 2
        enough = tl.sum((key >= trial).to(tl.int32), axis=0) >= K
        low = tl.where(enough, trial, low)
        high = tl.where(enough, high, trial - 1)
    above = key > low
    tied = (key == low) & (low > 0)
    room = K - tl.sum(above.to(tl.int32), axis=0)
    # Both counts in one scan: those above, fewer than K, in the low bits, and tied ones over them.
    scan = tl.cumsum(above.to(tl.int32) + (tied.to(tl.int32) << 10), axis=0)
    tied_before = scan >> 10
    take = above | (tied & (tied_before <= room))
    return take, (scan & 0x3FF) + tl.minimum(tied_before, room) - 1, low


@triton.jit
def choose_groups_kernel(maxima, groups, G, K: tl.constexpr, GROUPS_P2: tl.constexpr):
    """First level: the K groups of each row with the largest maxima; one program per row.

    maxima: int16 [B, G]; groups: int32 [B, K + 2], in ascending order, then their number and the
    smallest chosen maximum, below which no entry of the row need be looked at.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, GROUPS_P2)
    key = tl.load(maxima + row * G + at, mask=at < G, other=0).to(tl.int32)
    high = tl.max(key, axis=0)
    take, rank, low = _take_top(key, K, high - high, high)
    out = groups + row * (K + 2)
    tl.store(out + rank, at, mask=take)
    tl.store(out + K, tl.sum(take.to(tl.int32), axis=0))
    tl.store(out + K + 1, low)


@triton.jit
def select_kernel(
    pre,
    groups,
    index,
    value,
    F,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    SLOTS_P2: tl.constexpr,
    K_P2: tl.constexpr,
):
    """Second level: each row's K largest positive entries, in column order; one program per row.

    pre: int16 bits [B, F]; groups: as `choose_groups_kernel` left them; index: int32 [B, K], F
    where fewer than K entries are positive; value: float32 [B, K], 0 there.
    """
    row = tl.program_id(0).to(tl.int64)
    of_row = groups + row * (K + 2)
    chosen = tl.load(of_row + K)
    low = tl.load(of_row + K + 1)
    at = tl.arange(0, SLOTS_P2 * GROUP)
    place = at // GROUP
    real = place < chosen
    group = tl.load(of_row + place, mask=real, other=0)
    cols = group * GROUP + at % GROUP
    bits = tl.load(pre + row * F + cols, mask=real & (cols < F), other=0)
    key = tl.maximum(bits.to(tl.int32), 0)
    # K groups reach the smallest chosen maximum, so at least K entries do.
    take, rank, low = _take_top(key, K, low, tl.max(key, axis=0))
    tl.store(index + row * K + rank, cols, mask=take)
    tl.debug_barrier()
    # Only K of the candidates' lanes hold something now: go on with K lanes.
    slots = tl.arange(0, K_P2)
    real = slots < tl.sum(take.to(tl.int32), axis=0)
    col = tl.load(index + row * K + slots, mask=real, other=F)
    bits = tl.load(pre + row * F + col, mask=real, other=0).to(tl.int32)
    tl.store(value + row * K + slots, (bits << 16).to(tl.float32, bitcast=True), mask=slots < K)
    tl.store(index + row * K + slots, col, mask=(slots < K) & (col == F))


@triton.jit
def keep_top_kernel(pre, F, K, BLOCK: tl.constexpr):
    """Zero all but each row's K largest positive entries, in place: for K beyond a few hundred.

    pre: int16 bits [B, F]. The row is walked 17 times, from the cache.
    """
    row = tl.program_id(0).to(tl.int64)
    level = 0
    for bit in range(15):
        trial = level + (1 << (14 - bit))
        count = 0
        start = 0
        while start < F:
            cols = start + tl.arange(0, BLOCK)
            key = tl.load(pre + row * F + cols, mask=cols < F, other=0).to(tl.int32)
            count += tl.sum((key >= trial).to(tl.int32), axis=0)
            start += BLOCK
        level = tl.where(count >= K, trial, level)
    room = K
    start = 0
    while start < F:
        cols = start + tl.arange(0, BLOCK)
        key = tl.load(pre + row * F + cols, mask=cols < F, other=0).to(tl.int32)
        room -= tl.sum((key > level).to(tl.int32), axis=0)
        start += BLOCK
    start = 0
    while start < F:
        cols = start + tl.arange(0, BLOCK)
        bits = tl.load(pre + row * F + cols, mask=cols < F, other=0)
        key = bits.to(tl.int32)
        tied = ((key == level) & (level > 0)).to(tl.int32)
        keep = (key > level) | ((tied > 0) & (tl.cumsum(tied, axis=0) <= room))
        room -= tl.minimum(tl.sum(tied, axis=0), room)
        tl.store(pre + row * F + cols, tl.where(keep, bits, 0).to(tl.int16), mask=cols < F)
        start += BLOCK
