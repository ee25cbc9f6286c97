"""Kernels of the TopK training step on a CPU, compiled by numba.

One (token, latent) pair costs work here, never the whole [tokens, d_sae] matrix, but for
`select_topk`, which reads each pre-activation once while it is in cache. Every sum has a fixed
order, so equal inputs give equal bytes. Arrays are C-contiguous; sizes: B tokens, F = d_sae,
D = d_in, K = k. `tests/test_sae_kernels.py` holds each against a dense float64 reference.
"""

from __future__ import annotations

import os

# OpenMP's threads may be entered from any Python thread; numba's own pool may not.
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Float = NDArray[np.float32]
Int = NDArray[np.int32]
Bits = NDArray[np.int16]


@njit(cache=True, nogil=True, error_model="numpy")
def _kth_largest(values: Bits, count: int, k: int, floor: int) -> int:
    """The k-th largest of the first ``count`` values, or ``floor`` if fewer than k exceed it."""
    low = np.int32(floor)
    high = np.int32(32767)
    while low < high:
        middle = np.int16((low + high + 1) >> 1)
        above = 0
        for j in range(count):
            above += 1 if values[j] >= middle else 0
        if above >= k:
            low = np.int32(middle)
        else:
            high = np.int32(middle - 1)
    return int(low)


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def select_topk(  # noqa: PLR0912
    bits: Bits, k: int, columns: int, latents: Int, value_bits: Bits
) -> None:
    """The k largest positive entries of each row of a bfloat16 matrix.

    bits: int16 [B, F], the matrix's own bits: positive bfloat16s order as integers. latents:
    int32 [B, K] and value_bits: int16 [B, K] are filled; a row with fewer than k positive entries
    ends in zeros. Ties go to the one found first, in a fixed order.

    The row is folded into ``columns`` maxima (one vector maximum a cache line). The k-th largest
    maximum bounds the k-th largest entry from below, so that only columns above it, about k of
    them, are looked into.
    """
    n_tokens, d_sae = bits.shape
    folds = (d_sae + columns - 1) // columns
    for b in prange(n_tokens):
        maxima = np.zeros(columns, np.int16)
        for fold in range(folds):
            start = fold * columns
            for j in range(min(columns, d_sae - start)):
                maxima[j] = max(maxima[j], bits[b, start + j])
        bound = np.int16(max(1, _kth_largest(maxima, columns, k, 0)))
        found = 0
        candidates = np.empty(d_sae, np.int16)
        places = np.empty(d_sae, np.int32)
        for j in range(columns):
            if maxima[j] >= bound:
                for start in range(j, d_sae, columns):
                    if bits[b, start] >= bound:
                        candidates[found] = bits[b, start]
                        places[found] = start
                        found += 1
        if found > k:
            bound = np.int16(_kth_largest(candidates, found, k, bound))
        filled = 0
        for j in range(found):
            if candidates[j] > bound:
                latents[b, filled] = places[j]
                value_bits[b, filled] = candidates[j]
                filled += 1
        for j in range(found):
            if filled < k and candidates[j] == bound:
                latents[b, filled] = places[j]
                value_bits[b, filled] = candidates[j]
                filled += 1
        for j in range(filled, k):
            latents[b, j] = 0
            value_bits[b, j] = 0


@njit(cache=True, nogil=True, parallel=True, fastmath=True, error_model="numpy")
def decode_and_slope(
    W_dec: Float,
    b_dec: Float,
    latents: Int,
    values: Float,
    x: Float,
    error: Float,
    slope: Float,
    squared: Float,
) -> None:
    """Reconstruct each token, and take the loss' slope in its active values.

    error [B, D] = values @ W_dec + b_dec - x; squared [B] = |error|^2; slope [B, K] = 2/B *
    error . W_dec[latent], 0 for a latent that does not fire.
    """
    n_tokens, d_in = x.shape
    k = latents.shape[1]
    scale = np.float32(2.0 / n_tokens)
    for b in prange(n_tokens):
        row = np.empty(d_in, np.float32)
        for j in range(d_in):
            row[j] = b_dec[j] - x[b, j]
        for i in range(k):
            value = values[b, i]
            if value > 0:
                decoder = W_dec[latents[b, i]]
                for j in range(d_in):
                    row[j] += value * decoder[j]
        total = np.float32(0)
        for j in range(d_in):
            total += row[j] * row[j]
            error[b, j] = row[j]
        squared[b] = total
        for i in range(k):
            dot = np.float32(0)
            if values[b, i] > 0:
                decoder = W_dec[latents[b, i]]
                for j in range(d_in):
                    dot += row[j] * decoder[j]
            slope[b, i] = scale * dot


@njit(cache=True, nogil=True, error_model="numpy")
def group_by_latent(latents: Int, values: Float, d_sae: int, starts: Int, pairs: Int) -> None:
    """Sort the firing (token, slot) pairs by latent, stably: one counting sort a step.

    starts: int32 [F + 1], pairs: int32 [B * K]; pairs[starts[f]:starts[f + 1]] are the flat places
    in ``latents`` at which latent f fires.
    """
    n_tokens, k = latents.shape
    for f in range(d_sae + 1):
        starts[f] = 0
    for b in range(n_tokens):
        for i in range(k):
            if values[b, i] > 0:
                starts[latents[b, i] + 1] += 1
    for f in range(d_sae):
        starts[f + 1] += starts[f]
    cursor = starts[:-1].copy()
    for b in range(n_tokens):
        for i in range(k):
            if values[b, i] > 0:
                f = latents[b, i]
                pairs[cursor[f]] = b * k + i
                cursor[f] += 1


@njit(cache=True, nogil=True, parallel=True, fastmath=True, error_model="numpy")
def weight_gradients(
    starts: Int,
    pairs: Int,
    values: Float,
    slope: Float,
    error: Float,
    centred: Float,
    grad_dec: Float,
    grad_enc: Float,
    grad_b_enc: Float,
) -> None:
    """Gradients of W_dec, W_enc (both [F, D]) and b_enc [F], a latent's pairs at a time.

    grad_dec[f] = 2/B * sum value * error[token], grad_enc[f] = sum slope * centred[token].
    Rows of latents that did not fire become zero.
    """
    d_sae = len(starts) - 1
    k = values.shape[1]
    d_in = error.shape[1]
    scale = np.float32(2.0 / error.shape[0])
    flat_values = values.reshape(-1)
    flat_slope = slope.reshape(-1)
    for f in prange(d_sae):
        into_dec = grad_dec[f]
        into_enc = grad_enc[f]
        bias = np.float32(0)
        for j in range(d_in):
            into_dec[j] = 0
            into_enc[j] = 0
        for p in range(starts[f], starts[f + 1]):
            pair = pairs[p]
            token = pair // k
            value = scale * flat_values[pair]
            push = flat_slope[pair]
            bias += push
            error_row = error[token]
            centred_row = centred[token]
            for j in range(d_in):
                into_dec[j] += value * error_row[j]
                into_enc[j] += push * centred_row[j]
        grad_b_enc[f] = bias


@njit(cache=True, nogil=True, parallel=True, fastmath=True, error_model="numpy")
def row_squares(
    W_dec: Float, grad_dec: Float, grad_enc: Float, squares: NDArray[np.float64]
) -> None:
    """Project each decoder gradient off its (unit) row, and take squared norms.

    A step along the row would be undone by renormalising, so that part of the gradient is removed
    (Bricken et al. 2023). squares: float64 [F], of both gradients' rows together.
    """
    d_sae, d_in = W_dec.shape
    for f in prange(d_sae):
        along = np.float32(0)
        for j in range(d_in):
            along += W_dec[f, j] * grad_dec[f, j]
        total = np.float32(0)
        for j in range(d_in):
            grad_dec[f, j] -= along * W_dec[f, j]
            total += grad_dec[f, j] * grad_dec[f, j] + grad_enc[f, j] * grad_enc[f, j]
        squares[f] = total


@njit(cache=True, nogil=True, parallel=True, fastmath=True, error_model="numpy")
def adam_rows(
    weight: Float,
    grad: Float,
    first: Float,
    second: Float,
    shadow: NDArray[np.uint16],
    clip: float,
    rate: float,
    beta1: float,
    beta2: float,
    correction2: float,
    epsilon: float,
    unit_norm: bool,
) -> None:
    """Adam over the rows of one matrix [F, D], in one pass over memory (Kingma and Ba 2015).

    rate: learning rate over the first moment's bias correction. unit_norm: renormalise each row
    afterwards. shadow: uint16 [F, D], filled with the bfloat16 bits of the new weights, rounded
    to nearest even; empty: none is wanted.
    """
    rows, d_in = weight.shape
    keep1 = np.float32(beta1)
    keep2 = np.float32(beta2)
    new1 = np.float32(1 - beta1)
    new2 = np.float32(1 - beta2)
    scale = np.float32(clip)
    step = np.float32(rate)
    root = np.float32(1 / np.sqrt(correction2))
    tiny = np.float32(epsilon)
    with_shadow = shadow.size > 0
    for f in prange(rows):
        total = np.float32(0)
        for j in range(d_in):
            g = scale * grad[f, j]
            m = keep1 * first[f, j] + new1 * g
            v = keep2 * second[f, j] + new2 * g * g
            first[f, j] = m
            second[f, j] = v
            w = weight[f, j] - step * m / (np.sqrt(v) * root + tiny)
            weight[f, j] = w
            total += w * w
        if unit_norm:
            inverse = np.float32(1) / np.sqrt(max(total, np.float32(1e-30)))
            for j in range(d_in):
                weight[f, j] *= inverse
        if with_shadow:
            row = weight[f].view(np.uint32)
            for j in range(d_in):
                shadow[f, j] = (row[j] + 0x7FFF + ((row[j] >> 16) & 1)) >> 16


@njit(cache=True, nogil=True, parallel=True, fastmath=True, error_model="numpy")
def refine_topk(
    centred: Float, W_enc: Float, bias: Float, candidates: Int, k: int, latents: Int, values: Float
) -> None:
    """Of each token's candidates, the k largest positive in float32, by ascending latent.

    centred: [B, D]; W_enc: [F, D], transposed; candidates: int32 [B, C], distinct but for slots
    that are not used, which repeat latent 0 after the first. latents int32 [B, K] and values
    float32 [B, K] are filled; slots that stay empty hold latent 0 and value 0, at the end.
    """
    n_tokens, d_in = centred.shape
    n_candidates = candidates.shape[1]
    for b in prange(n_tokens):
        exact = np.empty(n_candidates, np.float32)
        for c in range(n_candidates):
            row = W_enc[candidates[b, c]]
            dot = bias[candidates[b, c]]
            for j in range(d_in):
                dot += centred[b, j] * row[j]
            exact[c] = dot
        filled = 0
        for _ in range(k):
            best = -1
            top = np.float32(0)
            for c in range(n_candidates):
                if exact[c] > top:
                    best = c
                    top = exact[c]
            if best < 0:
                break
            latent = candidates[b, best]
            for c in range(n_candidates):  # an unused slot may name it again
                if candidates[b, c] == latent:
                    exact[c] = 0
            place = filled
            while place > 0 and latents[b, place - 1] > latent:
                latents[b, place] = latents[b, place - 1]
                values[b, place] = values[b, place - 1]
                place -= 1
            latents[b, place] = latent
            values[b, place] = top
            filled += 1
        for i in range(filled, k):
            latents[b, i] = 0
            values[b, i] = 0
