"""Triton kernels that sum a TopK step's gradients by latent, without ever writing them.

The step's firing (token, latent) pairs are sorted by latent once (`order`). A latent's pairs
are then a run ``row_ptr[i] : row_ptr[i + 1]`` of ``order``, in token order, and every sum below
walks its run in that order: deterministic, and no gradient is ever written to memory.

A latent that fires on most tokens would keep one program busy for thousands of rows. So blocks of
CHUNK sorted pairs that belong to one latent are summed beforehand, a program each
(`chunk_kernel`), and a latent's program adds the head, the blocks and the tail of its run.
"""

import triton
import triton.language as tl


@triton.jit
def _gather_sum(acc, rows, coef, order, lo, hi, cols, D, K, BLOCK_D: tl.constexpr, U: tl.constexpr):
    """``acc + sum over p in lo..hi of coef[order[p]] * rows[order[p] // K]``, in order of p."""
    wide = cols < D
    start = lo
    while start < hi:
        at = start + tl.arange(0, U)
        pair = tl.load(order + at, mask=at < hi, other=0)
        c = tl.load(coef + pair, mask=at < hi, other=0.0)
        token = (pair // K).to(tl.int64)
        mask = (at < hi)[:, None] & wide[None, :]
        r = tl.load(rows + token[:, None] * D + cols[None, :], mask=mask, other=0.0)
        acc += tl.sum(r.to(tl.float32) * c[:, None], axis=0)
        start += U
    return acc


@triton.jit
def _pair_scalars(pair, inside, value, slope, loss, size, K: tl.constexpr):
    """Of each pair: slope, value^2, slope^2, |e|^2 and |centered|^2 of its token; 0 outside."""
    z = tl.load(value + pair, mask=inside, other=0.0)
    g = tl.load(slope + pair, mask=inside, other=0.0)
    e = tl.load(loss + pair // K, mask=inside, other=0.0)
    x = tl.load(size + pair // K, mask=inside, other=0.0)
    return g, z * z, g * g, e, x


@triton.jit
def chunk_kernel(
    error,
    centered,
    value,
    slope,
    latents,
    order,
    partial_dec,
    partial_enc,
    F,
    D,
    K: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    U: tl.constexpr,
):
    """Sums over the blocks of CHUNK sorted pairs that belong to one latent; one program per block.

    latents: sorted, int32 [B*K]; partials: float32 [B*K // CHUNK, D] of ``value * error`` and of
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
        dec = _gather_sum(zero, error, value, order, lo, lo + CHUNK, cols, D, K, BLOCK_D, U)
        tl.store(partial_dec + out, dec, mask=cols < D)
        enc = _gather_sum(zero, centered, slope, order, lo, lo + CHUNK, cols, D, K, BLOCK_D, U)
        tl.store(partial_enc + out, enc, mask=cols < D)


@triton.jit
def chunk_scalars_kernel(
    value,
    slope,
    loss,
    size,
    latents,
    order,
    partial,
    F,
    K: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """`chunk_kernel`'s counterpart for `_pair_scalars`; partial: float32 [B*K // CHUNK, 5]."""
    block = tl.program_id(0)
    at = block * CHUNK + tl.arange(0, CHUNK)
    first = tl.load(latents + block * CHUNK)
    last = tl.load(latents + block * CHUNK + CHUNK - 1)
    if (first == last) & (first < F):
        pair = tl.load(order + at)
        g, zz, gg, ee, xx = _pair_scalars(pair, at >= 0, value, slope, loss, size, K)
        tl.store(partial + 5 * block, tl.sum(g, axis=0))
        tl.store(partial + 5 * block + 1, tl.sum(zz, axis=0))
        tl.store(partial + 5 * block + 2, tl.sum(gg, axis=0))
        tl.store(partial + 5 * block + 3, tl.sum(ee, axis=0))
        tl.store(partial + 5 * block + 4, tl.sum(xx, axis=0))


@triton.jit
def run_scalars_kernel(
    value,
    slope,
    loss,
    size,
    order,
    row_ptr,
    partial,
    aux_slot,
    aux_grad,
    grad,
    bound,
    F,
    K: tl.constexpr,
    CHUNK: tl.constexpr,
    AUX: tl.constexpr,
    BLOCK: tl.constexpr,
    U: tl.constexpr,
):
    """The encoder's bias gradient, and a bound on the norm of all gradient rows.

    grad: float32 [F], the sum of the run's slopes [+ aux_grad[aux_slot[i]]]. By Cauchy and Schwarz
    |sum of z_b e_b|^2 <= (sum of z_b^2) (sum of |e_b|^2), so the squared norms of a latent's two
    rows are at most ``sum z^2 * sum |e|^2 + sum g^2 * sum |x|^2``. bound: float32 [programs, 2],
    of each program's latents the sum of that and of ``grad^2``.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lo = tl.load(row_ptr + i, mask=i < F, other=0)
    hi = tl.load(row_ptr + i + 1, mask=i < F, other=0)
    first = (lo + CHUNK - 1) // CHUNK
    last = hi // CHUNK
    blocks = last > first
    sum_g = tl.zeros((BLOCK,), dtype=tl.float32)
    sum_zz = tl.zeros((BLOCK,), dtype=tl.float32)
    sum_gg = tl.zeros((BLOCK,), dtype=tl.float32)
    sum_ee = tl.zeros((BLOCK,), dtype=tl.float32)
    sum_xx = tl.zeros((BLOCK,), dtype=tl.float32)
    u = tl.arange(0, U)[None, :]
    # Walk the head, or the whole of a run without blocks, then the tail; add the blocks.
    end = tl.where(blocks, first * CHUNK, hi)
    tail = tl.where(blocks, last * CHUNK, hi)
    head_length = end - lo
    length = head_length + hi - tail
    longest = tl.max(length, axis=0)
    done = 0
    while done < longest:
        step = done + u
        in_head = step < head_length[:, None]
        at = tl.where(in_head, lo[:, None] + step, (tail - head_length)[:, None] + step)
        inside = step < length[:, None]
        pair = tl.load(order + at, mask=inside, other=0)
        g, zz, gg, ee, xx = _pair_scalars(pair, inside, value, slope, loss, size, K)
        sum_g += tl.sum(g, axis=1)
        sum_zz += tl.sum(zz, axis=1)
        sum_gg += tl.sum(gg, axis=1)
        sum_ee += tl.sum(ee, axis=1)
        sum_xx += tl.sum(xx, axis=1)
        done += U
    longest = tl.max(last - first, axis=0)
    done = 0
    while done < longest:
        at = 5 * (first[:, None] + done + u)
        inside = first[:, None] + done + u < last[:, None]
        sum_g += tl.sum(tl.load(partial + at, mask=inside, other=0.0), axis=1)
        sum_zz += tl.sum(tl.load(partial + at + 1, mask=inside, other=0.0), axis=1)
        sum_gg += tl.sum(tl.load(partial + at + 2, mask=inside, other=0.0), axis=1)
        sum_ee += tl.sum(tl.load(partial + at + 3, mask=inside, other=0.0), axis=1)
        sum_xx += tl.sum(tl.load(partial + at + 4, mask=inside, other=0.0), axis=1)
        done += U
    tl.store(bound + 2 * tl.program_id(0), tl.sum(sum_zz * sum_ee + sum_gg * sum_xx, axis=0))
    if AUX:
        more = tl.load(aux_slot + i, mask=i < F, other=-1)
        sum_g += tl.load(aux_grad + more, mask=more >= 0, other=0.0)
    tl.store(grad + i, sum_g, mask=i < F)
    tl.store(bound + 2 * tl.program_id(0) + 1, tl.sum(sum_g * sum_g, axis=0))


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
    order,
    row_ptr,
    partial,
    aux_slot,
    aux_grad,
    cols,
    D,
    K: tl.constexpr,
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
    acc = _gather_sum(acc, rows, coef, order, lo, head, cols, D, K, BLOCK_D, U)
    if blocks:
        b = first
        while b < last:
            acc += tl.load(partial + b.to(tl.int64) * D + cols, mask=wide, other=0.0)
            b += 1
        acc = _gather_sum(acc, rows, coef, order, last * CHUNK, hi, cols, D, K, BLOCK_D, U)
    if AUX:
        slot = tl.load(aux_slot + i).to(tl.int64)
        more = tl.load(aux_grad + slot * D + cols, mask=wide & (slot >= 0), other=0.0)
        acc += more.to(tl.float32)
    return acc


@triton.jit
def log_kernel(loss, log, step, B, BLOCK: tl.constexpr):
    """``log[step - 1] = mean over the B tokens of loss``."""
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    start = 0
    while start < B:
        at = start + tl.arange(0, BLOCK)
        acc += tl.load(loss + at, mask=at < B, other=0.0)
        start += BLOCK
    tl.store(log + tl.load(step) - 1, tl.sum(acc, axis=0) / B)
