"""Triton kernels that end a step: the gradient's norm, which it is clipped by, then Adam.

A latent's gradient row is formed in registers (`gradients`) and used there, so Adam moves its
weight, its two moments and the bf16 copy of the weight, and no gradient.
"""

import triton
import triton.language as tl

from deconstruct.sae.engines.cuda.kernels.gradients import errors_of, gradient_row
from deconstruct.sae.engines.cuda.kernels.topk import bf16_bits, upper_half


@triton.jit
def row_squares_kernel(
    dec_copy,
    error,
    centered,
    value,
    slope,
    token,
    row_ptr,
    nest,
    partial_dec,
    partial_enc,
    aux_slot,
    aux_dec,
    aux_enc,
    norm_bound,
    squares,
    limit,
    B,
    F,
    D,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    U: tl.constexpr,
    UNIT: tl.constexpr,
    AUX: tl.constexpr,
    NESTED: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """``squares[p]``: squared norm of the gradient rows of latents p, p + PROGRAMS, ..., unscaled.

    norm_bound: [1], of the whole norm's square; where it is no more than ``limit``, nothing will be
    clipped, and no row is formed. UNIT: a decoder row's gradient is projected off the row, read as
    bf16.
    """
    total = tl.zeros((BLOCK_D,), dtype=tl.float32)
    cols = tl.arange(0, BLOCK_D)
    i = tl.program_id(0)
    if tl.load(norm_bound) > limit:
        while i < F:
            rows = errors_of(error, nest, i, B, D, NESTED)
            g = gradient_row(
                i, rows, value, token, row_ptr, partial_dec, aux_slot, aux_dec, cols, D,
                CHUNK, BLOCK_D, U, AUX,
            )  # fmt: skip
            if UNIT:
                at = i.to(tl.int64) * D + cols
                w = tl.load(dec_copy + at, mask=cols < D, other=0.0).to(tl.float32)
                g -= w * tl.sum(g * w, axis=0)
            total += g * g
            g = gradient_row(
                i, centered, slope, token, row_ptr, partial_enc, aux_slot, aux_enc, cols, D,
                CHUNK, BLOCK_D, U, AUX,
            )  # fmt: skip
            total += g * g
            i += PROGRAMS
    tl.store(squares + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def _adam(w, m, v, g, rate, correction, beta1, beta2, eps):
    """torch.optim.Adam's arithmetic; rate = lr / (1 - beta1^n), correction = (1 - beta2^n)^-1/2."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return w - rate * m / (tl.sqrt(v) * correction + eps), m, v


@triton.jit
def _load_moment(at, mask, HALF: tl.constexpr):
    m = tl.load(at, mask=mask, other=0, eviction_policy="evict_first")
    if HALF:
        m = (m.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return m


@triton.jit
def _store_moment(at, m, mask, noise, HALF: tl.constexpr):
    if HALF:
        # Up or down with the probability that keeps the mean: a step of v, a thousandth of it, is
        # below bf16's resolution and rounding to nearest would freeze it.
        half = upper_half(m.to(tl.int32, bitcast=True), noise)
        tl.store(at, half, mask=mask, eviction_policy="evict_first")
    else:
        tl.store(at, m, mask=mask, eviction_policy="evict_first")


@triton.jit
def _noise(at, step):
    """32 bits for each entry and step; Wellons' integer hash (lowbias32)."""
    h = (at.to(tl.int32) ^ (step * -1640531527)).to(tl.uint32, bitcast=True)
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)


@triton.jit
def update_rows_kernel(
    weight,
    moment1,
    moment2,
    shadow,
    rows,
    coef,
    token,
    row_ptr,
    nest,
    partial,
    aux_slot,
    aux_grad,
    pace,
    step,
    clip,
    scale,
    beta1,
    beta2,
    eps,
    B,
    D,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    U: tl.constexpr,
    UNIT: tl.constexpr,
    AUX: tl.constexpr,
    HALF: tl.constexpr,
    NESTED: tl.constexpr,
):
    """One latent's gradient row and its Adam update, in registers; one program per latent.

    weight, moment1, moment2: float32 [F, D], HALF: the moments are the int16 bits of bf16 ones,
    rounded stochastically; shadow: bf16 bits of the weight, written. The gradient is
    ``scale * clip * (sum over the run of coef * rows [+ aux_grad[aux_slot[i]]])``. UNIT: the
    gradient's part along the row is taken out, and the new row has norm 1. pace: float32
    [F + 1, 2] with (rate, correction) of `_adam`, as `pace_kernel` left it; at rate 0 the latent is
    left alone. step: int32 [1], 1 in the first step.
    """
    i = tl.program_id(0)
    rate = tl.load(pace + 2 * i)
    if rate != 0:
        cols = tl.arange(0, BLOCK_D)
        wide = cols < D
        at = i.to(tl.int64) * D + cols
        # In flight while the gradient is gathered, and first to leave the cache: nothing else of
        # this step wants them, while the rows that the gradient is made of are read many times.
        w = tl.load(weight + at, mask=wide, other=0.0, eviction_policy="evict_first")
        m = _load_moment(moment1 + at, wide, HALF)
        v = _load_moment(moment2 + at, wide, HALF)
        rows = errors_of(rows, nest, i, B, D, NESTED)
        g = gradient_row(
            i, rows, coef, token, row_ptr, partial, aux_slot, aux_grad, cols, D,
            CHUNK, BLOCK_D, U, AUX,
        )  # fmt: skip
        g *= scale * tl.load(clip)
        if UNIT:
            g -= w * tl.sum(g * w, axis=0)
        w, m, v = _adam(w, m, v, g, rate, tl.load(pace + 2 * i + 1), beta1, beta2, eps)
        if UNIT:
            # A row of zeros stays one: it has no direction to keep.
            w /= tl.maximum(tl.sqrt(tl.sum(w * w, axis=0)), 1e-30)
        tl.store(weight + at, w, mask=wide, eviction_policy="evict_first")
        noise = _noise(at, tl.load(step) - 1)
        _store_moment(moment1 + at, m, wide, (noise & 0xFFFF).to(tl.int32), HALF)
        _store_moment(moment2 + at, v, wide, (noise >> 16).to(tl.int32), HALF)
        tl.store(shadow + at, bf16_bits(w), mask=wide)


@triton.jit
def update_bias_kernel(
    bias,
    moment1,
    moment2,
    shadow,
    grad,
    pace,
    share,
    clip,
    scale,
    beta1,
    beta2,
    eps,
    N,
    F,
    LATENTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adam for a bias of N entries, at a ``share`` of the learning rate.

    LATENTS: it is b_enc, an entry has its latent's pace, and its bf16 bits go to ``shadow``; else
    all have that of the last row of pace: float32 [F + 1, 2].
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    entry = at if LATENTS else tl.zeros_like(at) + F
    rate = tl.load(pace + 2 * entry, mask=inside, other=0.0)
    moves = inside & (rate != 0)
    correction = tl.load(pace + 2 * entry + 1, mask=moves, other=1.0)
    g = tl.load(grad + at, mask=moves, other=0.0)
    g *= scale * tl.load(clip)
    w = tl.load(bias + at, mask=moves, other=0.0)
    m = tl.load(moment1 + at, mask=moves, other=0.0)
    v = tl.load(moment2 + at, mask=moves, other=0.0)
    w, m, v = _adam(w, m, v, g, rate * share, correction, beta1, beta2, eps)
    tl.store(bias + at, w, mask=moves)
    tl.store(moment1 + at, m, mask=moves)
    tl.store(moment2 + at, v, mask=moves)
    if LATENTS:
        tl.store(shadow + at, bf16_bits(w), mask=moves)
