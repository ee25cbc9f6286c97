"""Triton kernels, second half of a TopK step: gradients by latent, and Adam in the same pass.

The step's B*K chosen (token, latent) pairs are sorted by latent once, stably. A latent's pairs are
then a run ``row_ptr[i] : row_ptr[i + 1]`` of ``order``, in token order, and every sum below walks
its run in that order: deterministic, and no gradient is ever written to memory.

A latent that fires on most tokens would keep one program busy for thousands of rows. So blocks of
CHUNK sorted pairs that belong to one latent are summed beforehand, a program each
(`chunk_kernel`), and a latent's program adds the head, the blocks and the tail of its run.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, unused-ignore"
# Kernels are Triton's language in Python's clothes: their arguments have no Python types.

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
    """Sums over the blocks of CHUNK sorted pairs that belong to one latent; one program a block.

    latents: sorted [B*K]; partials: float32 [B*K // CHUNK, D], written for such blocks only.
    """
    block = tl.program_id(0)
    lo = block * CHUNK
    first = tl.load(latents + lo).to(tl.int32)
    last = tl.load(latents + lo + CHUNK - 1).to(tl.int32)
    if (first == last) & (first < F):
        cols = tl.arange(0, BLOCK_D)
        zero = tl.zeros((BLOCK_D,), dtype=tl.float32)
        out = block.to(tl.int64) * D + cols
        dec = _gather_sum(zero, error, value, order, lo, lo + CHUNK, cols, D, K, BLOCK_D, U)
        tl.store(partial_dec + out, dec, mask=cols < D)
        enc = _gather_sum(zero, centered, slope, order, lo, lo + CHUNK, cols, D, K, BLOCK_D, U)
        tl.store(partial_enc + out, enc, mask=cols < D)


@triton.jit
def bias_gradient_kernel(
    slope, order, row_ptr, aux_slot, aux_grad, grad, AUX: tl.constexpr, BLOCK: tl.constexpr
):
    """``grad[i]``: sum of the slopes of latent i's run [+ aux_grad[aux_slot[i]]]."""
    i = tl.program_id(0)
    lo = tl.load(row_ptr + i)
    hi = tl.load(row_ptr + i + 1)
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    start = lo
    while start < hi:
        at = start + tl.arange(0, BLOCK)
        pair = tl.load(order + at, mask=at < hi, other=0)
        acc += tl.load(slope + pair, mask=at < hi, other=0.0)
        start += BLOCK
    total = tl.sum(acc, axis=0)
    if AUX:
        slot = tl.load(aux_slot + i)
        total += tl.load(aux_grad + slot, mask=slot >= 0, other=0.0)
    tl.store(grad + i, total)


@triton.jit
def column_sum_kernel(
    rows,
    coef,
    out,
    R,
    D,
    WEIGHTED: tl.constexpr,
    SPAN: tl.constexpr,
    U: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``out[p] = sum of coef[r] * rows[r]`` over the p-th SPAN rows. rows bf16 [R, D]."""
    cols = tl.arange(0, BLOCK_D)
    acc = tl.zeros((BLOCK_D,), dtype=tl.float32)
    first = tl.program_id(0) * SPAN
    start = first
    while start < first + SPAN:
        r = start + tl.arange(0, U)
        mask = (r < R)[:, None] & (cols < D)[None, :]
        tile = tl.load(rows + r.to(tl.int64)[:, None] * D + cols[None, :], mask=mask, other=0.0)
        tile = tile.to(tl.float32)
        if WEIGHTED:
            tile *= tl.load(coef + r, mask=r < R, other=0.0)[:, None]
        acc += tl.sum(tile, axis=0)
        start += U
    tl.store(out + tl.program_id(0).to(tl.int64) * D + cols, acc, mask=cols < D)


@triton.jit
def decoder_bias_gradient_kernel(
    error_sums, weight_sums, grad, N_ERROR, N_WEIGHT, D, U: tl.constexpr, BLOCK: tl.constexpr
):
    """``grad = sum(error_sums) - sum(weight_sums)`` over rows; [*, D] partial sums each.

    b_dec enters twice: added to the output, subtracted from the input of every latent.
    """
    cols = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wide = (cols < D)[None, :]
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    start = 0
    while start < N_ERROR:
        r = start + tl.arange(0, U)
        mask = (r < N_ERROR)[:, None] & wide
        acc += tl.sum(tl.load(error_sums + r[:, None] * D + cols[None, :], mask=mask, other=0.0), 0)
        start += U
    start = 0
    while start < N_WEIGHT:
        r = start + tl.arange(0, U)
        mask = (r < N_WEIGHT)[:, None] & wide
        tile = tl.load(weight_sums + r[:, None] * D + cols[None, :], mask=mask, other=0.0)
        acc -= tl.sum(tile, 0)
        start += U
    tl.store(grad + cols, acc, mask=cols < D)


@triton.jit
def _adam(w, m, v, g, rate, correction, beta1, beta2, eps):
    """torch.optim.Adam's arithmetic; rate = lr / (1 - beta1^t), correction = (1 - beta2^t)^-1/2."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return w - rate * m / (tl.sqrt(v) * correction + eps), m, v


@triton.jit
def update_rows_kernel(
    weight,
    moment1,
    moment2,
    shadow,
    rows,
    coef,
    order,
    row_ptr,
    partial,
    aux_slot,
    aux_grad,
    schedule,
    step,
    clip,
    squares,
    scale,
    beta1,
    beta2,
    eps,
    D,
    K: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    U: tl.constexpr,
    UNIT: tl.constexpr,
    AUX: tl.constexpr,
    NORM_ONLY: tl.constexpr,
):
    """One latent's gradient row and its Adam update, in registers; one program a latent.

    weight, moment1, moment2: float32 [F, D]; shadow: bf16 copy of weight, written. The gradient is
    ``scale * clip * (sum over the run of coef * rows [+ aux_grad[aux_slot[i]]])``. UNIT: the
    gradient's part along the row is taken out, and the new row has norm 1. schedule: float32
    [steps, 2] with (rate, correction) of `_adam`; step: int32 [1], 1 in the first step.
    NORM_ONLY: write the gradient's squared norm before clipping to ``squares[i]``, nothing else.
    """
    i = tl.program_id(0)
    cols = tl.arange(0, BLOCK_D)
    wide = cols < D
    at = i.to(tl.int64) * D + cols
    lo = tl.load(row_ptr + i)
    hi = tl.load(row_ptr + i + 1)
    if not NORM_ONLY:  # in flight while the gradient is gathered
        w = tl.load(weight + at, mask=wide, other=0.0, eviction_policy="evict_first")
        m = tl.load(moment1 + at, mask=wide, other=0.0, eviction_policy="evict_first")
        v = tl.load(moment2 + at, mask=wide, other=0.0, eviction_policy="evict_first")
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
    g = acc * scale
    if NORM_ONLY:
        tl.store(squares + i, tl.sum(g * g, axis=0))
    else:
        g *= tl.load(clip)
        t = tl.load(step) - 1
        if UNIT:
            g -= w * tl.sum(g * w, axis=0)
        w, m, v = _adam(
            w, m, v, g, tl.load(schedule + 2 * t), tl.load(schedule + 2 * t + 1), beta1, beta2, eps
        )
        if UNIT:
            # A row of zeros stays one: no direction to keep.
            w /= tl.maximum(tl.sqrt(tl.sum(w * w, axis=0)), 1e-30)
        tl.store(weight + at, w, mask=wide, eviction_policy="evict_first")
        tl.store(moment1 + at, m, mask=wide, eviction_policy="evict_first")
        tl.store(moment2 + at, v, mask=wide, eviction_policy="evict_first")
        tl.store(shadow + at, w.to(tl.bfloat16), mask=wide)


@triton.jit
def update_bias_kernel(
    bias,
    moment1,
    moment2,
    shadow,
    grad,
    row_ptr,
    since_fired,
    fired,
    schedule,
    step,
    clip,
    scale,
    beta1,
    beta2,
    eps,
    B,
    N,
    LATENTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adam for a bias of N entries; LATENTS: it is b_enc, and the firing records are kept too.

    since_fired: int32 [N], tokens since the latent last fired; fired: int64 [N], how often it has.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    g = tl.load(grad + at, mask=inside, other=0.0)
    g *= scale * tl.load(clip)
    w = tl.load(bias + at, mask=inside, other=0.0)
    m = tl.load(moment1 + at, mask=inside, other=0.0)
    v = tl.load(moment2 + at, mask=inside, other=0.0)
    t = tl.load(step) - 1
    w, m, v = _adam(
        w, m, v, g, tl.load(schedule + 2 * t), tl.load(schedule + 2 * t + 1), beta1, beta2, eps
    )
    tl.store(bias + at, w, mask=inside)
    tl.store(moment1 + at, m, mask=inside)
    tl.store(moment2 + at, v, mask=inside)
    if LATENTS:
        tl.store(shadow + at, w.to(tl.bfloat16), mask=inside)
        count = tl.load(row_ptr + at + 1, mask=inside, other=0)
        count -= tl.load(row_ptr + at, mask=inside, other=0)
        age = tl.load(since_fired + at, mask=inside, other=0)
        tl.store(since_fired + at, tl.where(count > 0, 0, tl.minimum(age + B, 1 << 30)), mask=inside)
        tl.store(fired + at, tl.load(fired + at, mask=inside, other=0) + count, mask=inside)


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
