"""Triton kernels that sum a step's gradients by latent, without ever writing them.

The step's firing (token, latent) pairs are sorted by latent once (`forward.sort`). A latent's pairs
are then a run ``row_ptr[i] : row_ptr[i + 1]``, in token order, of which ``token``, ``value`` and
``slope`` hold each pair's token, activation and slope; every sum below walks its run in that order:
deterministic, and no gradient is ever written to memory.

A latent that fires on most tokens would keep one program busy for thousands of rows. So blocks of
CHUNK sorted pairs that belong to one latent are summed beforehand, a program each
(`chunk_kernel`), and a latent's program adds the head, the blocks and the tail of its run.

NESTED: a latent's errors are those of the nested dictionaries that it is part of, summed: ``error``
is [dictionaries, B, D], ``loss`` [dictionaries, B], and ``nest``, int32 [F], says which.
"""

import triton
import triton.language as tl


@triton.jit
def _gather_sum(acc, rows, coef, token, lo, hi, cols, D, BLOCK_D: tl.constexpr, U: tl.constexpr):
    """``acc + sum over p in lo..hi of coef[p] * rows[token[p]]``, in order of p."""
    wide = cols < D
    start = lo
    while start < hi:
        at = start + tl.arange(0, U)
        c = tl.load(coef + at, mask=at < hi, other=0.0)
        t = tl.load(token + at, mask=at < hi, other=0).to(tl.int64)
        mask = (at < hi)[:, None] & wide[None, :]
        r = tl.load(rows + t[:, None] * D + cols[None, :], mask=mask, other=0.0)
        acc += tl.sum(r.to(tl.float32) * c[:, None], axis=0)
        start += U
    return acc


@triton.jit
def errors_of(error, nest, i, B, D, NESTED: tl.constexpr):
    """Where latent i's errors begin."""
    if NESTED:
        error += tl.load(nest + i).to(tl.int64) * B * D
    return error


@triton.jit
def chunk_kernel(
    error,
    centered,
    value,
    slope,
    token,
    latents,
    nest,
    partial_dec,
    partial_enc,
    B,
    F,
    D,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    U: tl.constexpr,
    NESTED: tl.constexpr,
):
    """Sums over the blocks of CHUNK sorted pairs that belong to one latent; one program per block.

    latents: sorted, int32 [P]; partials: float32 [P // CHUNK, D] of ``value * error`` and of
    ``slope * centered``, written for such blocks only.
    """
    block = tl.program_id(0)
    lo = block * CHUNK
    first = tl.load(latents + lo)
    last = tl.load(latents + lo + CHUNK - 1)
    if (first == last) & (first < F):
        cols = tl.arange(0, BLOCK_D)
        zero = tl.zeros((BLOCK_D,), dtype=tl.float32)
        out = block.to(tl.int64) * D + cols
        rows = errors_of(error, nest, first, B, D, NESTED)
        dec = _gather_sum(zero, rows, value, token, lo, lo + CHUNK, cols, D, BLOCK_D, U)
        tl.store(partial_dec + out, dec, mask=cols < D)
        enc = _gather_sum(zero, centered, slope, token, lo, lo + CHUNK, cols, D, BLOCK_D, U)
        tl.store(partial_enc + out, enc, mask=cols < D)


@triton.jit
def run_sums_kernel(
    value,
    slope,
    token,
    loss,
    size,
    row_ptr,
    nest,
    aux_slot,
    aux_grad,
    grad,
    bound,
    B,
    AUX: tl.constexpr,
    U: tl.constexpr,
    NESTED: tl.constexpr,
):
    """The encoder's bias gradient, and a bound on the norm of gradient rows; a latent a program.

    grad: float32 [F], the sum of the run's slopes [+ aux_grad[aux_slot[i]]]. By Cauchy and Schwarz
    |sum of z_b e_b|^2 <= (sum of z_b^2) (sum of |e_b|^2), so the squared norms of a latent's two
    rows are at most ``sum z^2 * sum |e|^2 + sum g^2 * sum |x|^2``, its bound: float32 [F].
    """
    i = tl.program_id(0)
    lo = tl.load(row_ptr + i)
    hi = tl.load(row_ptr + i + 1)
    loss = errors_of(loss, nest, i, B, 1, NESTED)
    g = tl.zeros((U,), dtype=tl.float32)
    zz = tl.zeros((U,), dtype=tl.float32)
    gg = tl.zeros((U,), dtype=tl.float32)
    ee = tl.zeros((U,), dtype=tl.float32)
    xx = tl.zeros((U,), dtype=tl.float32)
    start = lo
    while start < hi:
        at = start + tl.arange(0, U)
        t = tl.load(token + at, mask=at < hi, other=0)
        z = tl.load(value + at, mask=at < hi, other=0.0)
        s = tl.load(slope + at, mask=at < hi, other=0.0)
        g += s
        zz += z * z
        gg += s * s
        ee += tl.load(loss + t, mask=at < hi, other=0.0)
        xx += tl.load(size + t, mask=at < hi, other=0.0)
        start += U
    sum_g = tl.sum(g, axis=0)
    rows = tl.sum(zz, axis=0) * tl.sum(ee, axis=0) + tl.sum(gg, axis=0) * tl.sum(xx, axis=0)
    tl.store(bound + i, rows)
    if AUX:
        more = tl.load(aux_slot + i)
        sum_g += tl.load(aux_grad + more, mask=more >= 0, other=0.0)
    tl.store(grad + i, sum_g)


@triton.jit
def _column_sum(rows, coef, first, R, cols, D, WEIGHTED: tl.constexpr, SPAN, U, BLOCK_D):
    """Sum of ``-coef[r] * rows[r]``, or not WEIGHTED of ``rows[r]``, over SPAN rows from first."""
    acc = tl.zeros((BLOCK_D,), dtype=tl.float32)
    start = first
    while start < first + SPAN:
        r = start + tl.arange(0, U)
        used = r < R
        if WEIGHTED:  # latents that did not fire are not read
            c = tl.load(coef + r, mask=used, other=0.0)
            used = used & (c != 0)
        mask = used[:, None] & (cols < D)[None, :]
        tile = tl.load(rows + r.to(tl.int64)[:, None] * D + cols[None, :], mask=mask, other=0.0)
        tile = tile.to(tl.float32)
        if WEIGHTED:
            tile *= -c[:, None]
        acc += tl.sum(tile, axis=0)
        start += U
    return acc


@triton.jit
def decoder_bias_partial_kernel(
    error,
    enc_copy,
    grad_b_enc,
    out,
    B,
    F,
    D,
    ERROR_PROGRAMS: tl.constexpr,
    SPAN_ERROR: tl.constexpr,
    SPAN_WEIGHT: tl.constexpr,
    U: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Partial sums of b_dec's gradient, ``sum of e - W_enc @ (gradient of b_enc)``.

    b_dec enters twice: added to the output, subtracted from the input of every latent. Reduced over
    tokens first, the second part is a product with one vector. error: bf16 [B, D]; enc_copy: bf16
    [F, D], still the step's; out: float32 [programs, D].
    """
    p = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    to = out + p.to(tl.int64) * D + cols
    if p < ERROR_PROGRAMS:
        part = _column_sum(
            error, grad_b_enc, p * SPAN_ERROR, B, cols, D, False, SPAN_ERROR, U, BLOCK_D
        )
        tl.store(to, part, mask=cols < D)
    else:
        first = (p - ERROR_PROGRAMS) * SPAN_WEIGHT
        part = _column_sum(enc_copy, grad_b_enc, first, F, cols, D, True, SPAN_WEIGHT, U, BLOCK_D)
        tl.store(to, part, mask=cols < D)


@triton.jit
def decoder_bias_gradient_kernel(partial, grad, N, D, U: tl.constexpr, BLOCK: tl.constexpr):
    """``grad`` [D]: the sum of N rows of partial sums."""
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    start = 0
    while start < N:
        r = start + tl.arange(0, U)
        mask = (r < N)[:, None] & (cols < D)[None, :]
        acc += tl.sum(tl.load(partial + r[:, None] * D + cols[None, :], mask=mask, other=0.0), 0)
        start += U
    tl.store(grad + cols, acc, mask=cols < D)


@triton.jit
def gradient_row(
    i,
    rows,
    coef,
    token,
    row_ptr,
    partial,
    aux_slot,
    aux_grad,
    cols,
    D,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    U: tl.constexpr,
    AUX: tl.constexpr,
):
    """Latent i's row: its run's sum of coef * rows [+ aux_grad[aux_slot[i]]]."""
    wide = cols < D
    lo = tl.load(row_ptr + i)
    hi = tl.load(row_ptr + i + 1)
    acc = tl.zeros((BLOCK_D,), dtype=tl.float32)
    first = (lo + CHUNK - 1) // CHUNK
    last = hi // CHUNK
    blocks = last > first
    head = tl.where(blocks, first * CHUNK, hi)
    acc = _gather_sum(acc, rows, coef, token, lo, head, cols, D, BLOCK_D, U)
    if blocks:
        b = first
        while b < last:
            acc += tl.load(partial + b.to(tl.int64) * D + cols, mask=wide, other=0.0)
            b += 1
        acc = _gather_sum(acc, rows, coef, token, last * CHUNK, hi, cols, D, BLOCK_D, U)
    if AUX:
        slot = tl.load(aux_slot + i).to(tl.int64)
        more = tl.load(aux_grad + slot * D + cols, mask=wide & (slot >= 0), other=0.0)
        acc += more.to(tl.float32)
    return acc
