"""Kernels that choose among pre-activations: the k largest of a row, or all above their edge.

Compiled by numba. Each pre-activation is read once, while it is in cache. Arrays are C-contiguous;
sizes: B tokens, F = d_sae, D = d_in, K = k. Kernels work on rows first <= row < last;
`threads.share` calls them. `tests/sae/cpu` holds each against a dense float64 reference.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deconstruct.sae.engines.cpu.kernels.vectors import (
    count_bits,
    lowest_bit,
    mask_allowed,
    mask_at_least,
    raise_maxima,
)

Float = NDArray[np.float32]
Int = NDArray[np.int32]
Long = NDArray[np.int64]
Bits = NDArray[np.int16]


@njit(cache=True, nogil=True, error_model="numpy")
def _kth_largest(values: Bits, count: int, k: int, floor: int) -> int:
    """The k-th largest of the first ``count`` values, or ``floor`` if fewer than k exceed it.

    count: a multiple of 32; the values may hold fillers below ``floor``.
    """
    low, high = floor, 32767
    place = values.ctypes.data
    while low < high:
        middle = (low + high + 1) >> 1
        above = 0
        for j in range(0, count, 32):
            above += count_bits(mask_at_least(place + 2 * j, middle))
        if above >= k:
            low = middle
        else:
            high = middle - 1
    return low


@njit(cache=True, nogil=True, error_model="numpy")
def _mask_of_tail(row: Bits, allowed: Bits, start: int, bound: int) -> np.uint32:
    """`mask_allowed` for the fewer than 32 last values of a row."""
    mask = np.uint32(0)
    for j in range(start, len(row)):
        if row[j] & allowed[j] >= bound:
            mask = np.uint32(mask | (np.uint32(1) << np.uint32(j - start)))
    return mask


@njit(cache=True, nogil=True, error_model="numpy")
def _choose(  # noqa: PLR0912
    row: Bits,
    allowed: Bits,
    columns: int,
    maxima: Bits,
    candidates: Bits,
    places: Int,
    latents: Int,
    words: Int,
) -> int:
    """One row of `select_topk`: how many it finds. maxima, candidates, places: room to work in."""
    d_sae, k = len(row), len(latents)
    folds = (d_sae + columns - 1) // columns
    maxima[:columns] = 0
    for fold in range(folds):
        start = fold * columns
        count = min(columns, d_sae - start)
        whole = count // 32 * 32
        for j in range(0, whole, 32):
            place = 2 * (start + j)
            raise_maxima(
                maxima.ctypes.data + 2 * j, row.ctypes.data + place, allowed.ctypes.data + place
            )
        for j in range(whole, count):
            maxima[j] = max(maxima[j], row[start + j] & allowed[start + j])
    bound = max(1, _kth_largest(maxima, columns, k, 0))
    found = 0
    for start in range(0, d_sae, 32):
        if start + 32 <= d_sae:
            mask = mask_allowed(row.ctypes.data + 2 * start, allowed.ctypes.data + 2 * start, bound)
        else:
            mask = _mask_of_tail(row, allowed, start, bound)
        while mask:
            place = start + lowest_bit(mask)
            mask = np.uint32(mask & (mask - np.uint32(1)))
            candidates[found] = row[place]
            places[found] = place
            found += 1
    at_bound = found
    if found > k:
        padded = (found + 31) // 32 * 32
        candidates[found:padded] = 0
        bound = _kth_largest(candidates, padded, k, bound)
        at_bound = k
        for j in range(found):
            at_bound -= 1 if candidates[j] > bound else 0
    filled = 0
    for j in range(found):
        wanted = candidates[j] > bound
        if candidates[j] == bound and at_bound > 0:
            at_bound -= 1
            wanted = True
        if wanted:
            latents[filled] = places[j]
            words[filled] = np.int32(candidates[j]) << np.int32(16)
            filled += 1
    for j in range(filled, k):
        latents[j] = 0
        words[j] = 0
    return filled


Choices = tuple[tuple[Bits, int, Int, Float, Int], ...]


@njit(cache=True, nogil=True, error_model="numpy")
def select_topk(first: int, last: int, bits: Bits, choices: Choices) -> None:
    """The k largest positive entries of each row of a bfloat16 matrix, by ascending latent.

    bits: int16 [B, F], the matrix's own bits: positive bfloat16s order as integers. Each of the
    choices is (allowed, columns, latents, values, counts). allowed: int16 [F], -1 for the latents
    that are chosen from, 0 for others. latents: int32 [B, K], values: float32 [B, K] and counts:
    int32 [B] are filled, or fewer rows, of which a choice then is; a row with fewer than k positive
    entries ends in zeros. Of equal entries those of the lower latents are chosen. All choices are
    made while a row is in cache.

    The row is folded into ``columns`` maxima, a multiple of 32. The k-th largest maximum bounds
    the k-th largest entry from below, so that few more than k pass a second look at the row.
    """
    d_sae = bits.shape[1]
    maxima = np.empty(d_sae + 32, np.int16)
    candidates = np.empty(d_sae + 32, np.int16)
    places = np.empty(d_sae, np.int32)
    for b in range(first, last):
        for allowed, columns, latents, values, counts in choices:
            if b >= len(counts):
                continue
            words = values[b].view(np.int32)  # a float32 is its bfloat16 and 16 zeros
            counts[b] = _choose(
                bits[b], allowed, columns, maxima, candidates, places, latents[b], words
            )


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def refine_topk(
    first: int,
    last: int,
    centred: Float,
    W_enc: Float,
    bias: Float,
    candidates: Int,
    k: int,
    latents: Int,
    values: Float,
) -> None:
    """Of each token's candidates, the k largest positive in float32, by ascending latent.

    centred: [B, D]; W_enc: [F, D], transposed; candidates: int32 [B, C], distinct but for slots
    that are not used, which repeat latent 0 after the first. latents int32 [B, K] and values
    float32 [B, K] are filled; slots that stay empty hold latent 0 and value 0, at the end.
    """
    d_in = centred.shape[1]
    n_candidates = candidates.shape[1]
    for b in range(first, last):
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


COLUMNS = 512
"""Maxima that a row is folded into."""


@njit(cache=True, nogil=True, error_model="numpy")
def select_above(
    first: int, last: int, bits: Bits, edges: Bits, places: Int, values: Bits, counts: Int
) -> None:
    """The entries of each row of a bfloat16 matrix that are at or above their column's edge.

    bits: int16 [n, F], the matrix's own bits. edges: int16 [F], as `ordered` integers. Row i's
    finds are places[i, :counts[i]] and the bits in values[i, :counts[i]]; both have F columns.

    The row is folded into `COLUMNS` maxima of entry less edge, one vector maximum a cache line, so
    that only columns with a find are looked into.
    """
    d_sae = bits.shape[1]
    columns = min(COLUMNS, d_sae)
    # Halves, so that differences fit 16 bits: a flag may be raised in vain, never be missed.
    halves = (edges >> 1).astype(np.int16)
    for b in range(first, last):
        found = 0
        flags = np.full(columns, -1, np.int16)
        for start in range(0, d_sae, columns):
            row = bits[b, start : start + columns]  # views: indices that can't wrap vectorise
            half = halves[start : start + columns]
            for j in range(len(row)):
                key = row[j]
                key = np.int16(key ^ ((key >> np.int16(15)) & np.int16(0x7FFF)))
                above = np.int16(np.int16(key >> np.int16(1)) - half[j])
                flags[j] = max(flags[j], above)
        for j in range(columns):
            if flags[j] >= 0:
                for f in range(j, d_sae, columns):
                    key = bits[b, f]
                    if np.int16(key ^ ((key >> 15) & np.int16(0x7FFF))) >= edges[f]:
                        places[b, found] = f
                        values[b, found] = key
                        found += 1
        counts[b] = found


@njit(cache=True, nogil=True, error_model="numpy")
def gather_rows(
    first: int,
    last: int,
    places: Int,
    values: Bits,
    offsets: Long,
    latents: Int,
    tokens: Int,
    bits: Bits,
    token: int,
) -> None:
    """Rows of `select_above` as lists: row i becomes pairs offsets[i]:offsets[i + 1], whose token
    is ``token`` + i. latents, tokens: int32 [P], bits: int16 [P], written there alone."""
    for i in range(first, last):
        for p in range(offsets[i], offsets[i + 1]):
            latents[p] = places[i, p - offsets[i]]
            bits[p] = values[i, p - offsets[i]]
            tokens[p] = token + i
