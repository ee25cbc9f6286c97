"""The sparse products of a TopK step on a CPU: decoding, its slope, and the weights' gradients.

One (token, latent) pair costs work here, never the whole [tokens, d_sae] matrix. What such
products wait for is memory, so matrices that rows are gathered from are kept in bfloat16 and cut
into slices of `WIDTH` columns, [slices, rows, HALF] words (packed; see `vectors`): a slice
stays in a core's L2 while all tokens or latents pass over it. Sums are float32, each in a fixed
order whatever the number of threads. Sizes: B tokens, F = d_sae, D = d_in (a multiple of WIDTH,
where need be padded with zeros), S = D / WIDTH, P places of pairs. Token b's pairs are the
counts[b] places from offsets[b] on, so that a row may have room for more than fire.

Kernels work on rows first <= row < last; `threads.share` calls them.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deconstruct.sae.engines.cpu.kernels.vectors import (
    WIDTH,
    PackedRows,
    add_row_pairs,
    add_rows,
    dot_rows,
    pack_row,
)

Float = NDArray[np.float32]
Int = NDArray[np.int32]
Long = NDArray[np.int64]


@njit(cache=True, nogil=True, error_model="numpy")
def pack(first: int, last: int, rows: Float, packed: PackedRows) -> None:
    """rows [R, D] -> packed [S, R, HALF]."""
    for r in range(first, last):
        for s in range(packed.shape[0]):
            pack_row(rows[r, s * WIDTH :].ctypes.data, packed[s, r].ctypes.data)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def centre(
    first: int, last: int, z: Float, b_dec: Float, low: NDArray[np.uint16], rows: PackedRows
) -> None:
    """z - b_dec in bfloat16: plain, for the encoder's product, and packed, for its gradient.

    z: [B, d_in], d_in <= D; b_dec: [D]; low: bits [B, d_in]; rows: [S, B, 2, HALF], of which the
    second row of each pair is filled.
    """
    d_in = z.shape[1]
    row = np.zeros(len(b_dec), np.float32)
    words = row.view(np.uint32)
    for b in range(first, last):
        for j in range(d_in):
            row[j] = z[b, j] - b_dec[j]
        for j in range(d_in):
            odd = (words[j] >> np.uint32(16)) & np.uint32(1)
            low[b, j] = (words[j] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        for s in range(rows.shape[0]):
            pack_row(row[s * WIDTH :].ctypes.data, rows[s, b, 1].ctypes.data)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def decode_and_slope(
    first: int,
    last: int,
    W_dec: PackedRows,
    bias: Float,
    offsets: Long,
    counts: Int,
    latents: Int,
    values: Float,
    x: Float,
    scale: float,
    rows: PackedRows,
    residual: Float,
    slope: Float,
    squared: Float,
    sums: Float,
    chunk: int,
) -> None:
    """Reconstruct each token, and take the loss' slope in its active values.

    error = values @ W_dec + bias - x, for W_dec packed [S, F, HALF], bias [D], x [B, d_in]; it is
    written packed to the first row of each pair of rows [S, B, 2, HALF], and its negative to
    residual in float32, as many rows as that has: [<= B, D]. squared [B] = |error|^2; slope [P] =
    scale * error . W_dec[latent]. sums[b // chunk] += token b's error, [D].
    """
    d_in = x.shape[1]
    row = np.empty(WIDTH, np.float32)
    place = row.ctypes.data
    for b in range(first, last):
        squared[b] = 0
        for p in range(offsets[b], offsets[b] + counts[b]):
            slope[p] = 0
    for s in range(W_dec.shape[0]):
        table = W_dec[s].ctypes.data
        start = s * WIDTH
        wide = min(WIDTH, d_in - start)
        for b in range(first, last):
            total_error = sums[b // chunk]
            for j in range(wide):
                row[j] = bias[start + j] - x[b, start + j]
            for j in range(wide, WIDTH):
                row[j] = 0
            at, k = offsets[b], counts[b]
            add_rows(table, latents[at:].ctypes.data, values[at:].ctypes.data, k, place)
            total = np.float32(0)
            for j in range(WIDTH):
                total += row[j] * row[j]
                total_error[start + j] += row[j]
            squared[b] += total
            pack_row(place, rows[s, b, 0].ctypes.data)
            if b < len(residual):
                for j in range(WIDTH):
                    residual[b, start + j] = -row[j]
            dot_rows(table, latents[at:].ctypes.data, k, place, slope[at:].ctypes.data)
    for b in range(first, last):
        for p in range(offsets[b], offsets[b] + counts[b]):
            slope[p] *= np.float32(scale)


@njit(cache=True, nogil=True, error_model="numpy")
def group_by_latent(
    offsets: Long,
    counts: Int,
    latents: Int,
    values: Float,
    slope: Float,
    scale: float,
    starts: Int,
    tokens: Int,
    by_value: Float,
    by_slope: Float,
) -> None:
    """Sort the (token, latent) pairs by latent, stably: one counting sort per step.

    starts: int32 [F + 1]. Places starts[f]:starts[f + 1] of tokens, by_value and by_slope, all
    [P], are filled with the tokens of latent f's pairs, its values there times scale, and their
    slopes.
    """
    d_sae = len(starts) - 1
    for f in range(d_sae + 1):
        starts[f] = 0
    for b in range(len(counts)):
        for p in range(offsets[b], offsets[b] + counts[b]):
            starts[latents[p] + 1] += 1
    for f in range(d_sae):
        starts[f + 1] += starts[f]
    cursor = starts[:-1].copy()
    for b in range(len(counts)):
        for p in range(offsets[b], offsets[b] + counts[b]):
            place = cursor[latents[p]]
            cursor[latents[p]] += 1
            tokens[place] = b
            by_value[place] = np.float32(scale) * values[p]
            by_slope[place] = slope[p]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def weight_gradients(
    first: int,
    last: int,
    starts: Int,
    tokens: Int,
    by_value: Float,
    by_slope: Float,
    rows: PackedRows,
    W_dec: PackedRows,
    held: NDArray[np.bool_],
    grad_dec: Float,
    grad_enc: Float,
    grad_b_enc: Float,
    along: Float,
    squares: NDArray[np.float64],
) -> None:
    """Gradients of W_dec, W_enc (both [F, D]) and b_enc [F], from pairs sorted by latent.

    grad_dec[f] = sum value * error[token], grad_enc[f] = sum slope * centred[token], for
    rows [S, B, 2, HALF] = packed (error, centred). Gradients of the latents that held [F] names
    are added to; others are made anew, but rows of both matrices are left as they were where a
    latent did not fire.

    While a row is at hand, along [F] = grad_dec . W_dec, with W_dec packed [S, F, HALF]: the part
    along a decoder row of unit norm, which renormalising would undo, so that it is to be left out
    (Bricken et al. 2023). squares [F]: squared norm of all gradients of a latent but that part.
    """
    itself = np.zeros(1, np.int32)
    for f in range(first, last):
        if starts[f + 1] > starts[f] or not held[f]:
            along[f] = 0
            squares[f] = 0
    for s in range(rows.shape[0]):
        table = rows[s].ctypes.data
        for f in range(first, last):
            place, count = starts[f], starts[f + 1] - starts[f]
            if count == 0:
                continue
            into_dec = grad_dec[f, s * WIDTH :]
            into_enc = grad_enc[f, s * WIDTH :]
            if not held[f]:
                for j in range(WIDTH):
                    into_dec[j] = 0
                    into_enc[j] = 0
            add_row_pairs(
                table,
                tokens[place:].ctypes.data,
                by_value[place:].ctypes.data,
                by_slope[place:].ctypes.data,
                count,
                into_dec.ctypes.data,
                into_enc.ctypes.data,
            )
            dot_rows(
                W_dec[s, f].ctypes.data,
                itself.ctypes.data,
                1,
                into_dec.ctypes.data,
                along[f:].ctypes.data,
            )
            total = np.float32(0)
            for j in range(WIDTH):
                total += into_dec[j] * into_dec[j] + into_enc[j] * into_enc[j]
            squares[f] += total
    for f in range(first, last):
        if held[f] and starts[f + 1] == starts[f]:
            continue
        total = grad_b_enc[f] if held[f] else np.float32(0)
        for place in range(starts[f], starts[f + 1]):
            total += by_slope[place]
        grad_b_enc[f] = total
        squares[f] += total * total - along[f] * along[f]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def add_weighted_rows(
    first: int,
    last: int,
    weights: Float,
    rows: Float,
    cuts: Long,
    parts: Float,
) -> None:
    """parts[p] += sum of weights[r] * rows[r] over cuts[p] <= r < cuts[p + 1]."""
    for part in range(first, last):
        into = parts[part]
        for r in range(cuts[part], cuts[part + 1]):
            weight = weights[r]
            if weight != 0:
                row = rows[r]
                for j in range(len(into)):
                    into[j] += weight * row[j]
