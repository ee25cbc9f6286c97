"""Kernels over active pairs in float32: decoding by groups of latents, slopes, gradients.

Kernels work on rows first <= row < last; `threads.share` calls them on several threads. Active
(token, latent) pairs are lists: token b's pairs are offsets[b]:offsets[b + 1], in a fixed order.
Work is done for pairs alone. Every sum has a fixed order, so equal inputs give equal bytes. Arrays
are C-contiguous; sizes: B tokens, F = d_sae, D = d_in, O = d_out, P pairs, G groups of latents (the
nested dictionaries of a Matryoshka SAE; 1 for all others).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float32]
Int = NDArray[np.int32]
Long = NDArray[np.int64]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def decode(  # noqa: PLR0912
    first: int,
    last: int,
    offsets: Long,
    latents: Int,
    values: Float,
    W_dec: Float,
    groups: Int,
    x: Float,
    errors: Float,
) -> None:
    """Errors of each token's reconstruction by the first 1, 2, ... groups of latents, summed up.

    groups: int32 [F], the group of each latent. x: [B, O], what they are to
    add up to. With e_g the error after groups 0..g, errors
    [G + 1, B, O] becomes, at g < G, the sum of e_g, ..., e_(G-1), and at G that of the last alone;
    of one group it is [1, B, O].
    """
    n_groups, _, d_out = errors.shape
    n_groups = max(1, n_groups - 1)
    for b in range(first, last):
        for g in range(1, n_groups):
            for j in range(d_out):
                errors[g, b, j] = 0
        alone = errors[0, b]
        for j in range(d_out):
            alone[j] = -x[b, j]
        for p in range(offsets[b], offsets[b + 1]):
            value = values[p]
            if value != 0:
                row = W_dec[latents[p]]
                into = errors[groups[latents[p]], b]
                for j in range(d_out):
                    into[j] += value * row[j]
        for g in range(1, n_groups):
            for j in range(d_out):
                errors[g, b, j] += errors[g - 1, b, j]
        if n_groups > 1:
            for j in range(d_out):
                errors[n_groups, b, j] = errors[n_groups - 1, b, j]
        for g in range(n_groups - 2, -1, -1):
            for j in range(d_out):
                errors[g, b, j] += errors[g + 1, b, j]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def slopes(
    first: int,
    last: int,
    offsets: Long,
    latents: Int,
    W_dec: Float,
    groups: Int,
    errors: Float,
    scale: float,
    slope: Float,
) -> None:
    """slope[p] = scale * errors[group of p's latent, token of p] . W_dec[p's latent]: [P]."""
    d_out = errors.shape[2]
    factor = np.float32(scale)
    for b in range(first, last):
        for p in range(offsets[b], offsets[b + 1]):
            row = W_dec[latents[p]]
            error = errors[groups[latents[p]], b]
            dot = np.float32(0)
            for j in range(d_out):
                dot += error[j] * row[j]
            slope[p] = factor * dot


@njit(cache=True, nogil=True, error_model="numpy")
def group_by_latent(latents: Int, starts: Long, order: Int) -> None:
    """A stable counting sort: order[starts[f]:starts[f + 1]] are the pairs of latent f."""
    for f in range(len(starts)):
        starts[f] = 0
    for p in range(len(latents)):
        starts[latents[p] + 1] += 1
    for f in range(len(starts) - 1):
        starts[f + 1] += starts[f]
    cursor = starts[:-1].copy()
    for p in range(len(latents)):
        f = latents[p]
        order[cursor[f]] = p
        cursor[f] += 1


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def weight_gradients(
    first: int,
    last: int,
    starts: Long,
    order: Int,
    tokens: Int,
    values: Float,
    push: Float,
    groups: Int,
    errors: Float,
    scale: float,
    inputs: Float,
    held: NDArray[np.bool_],
    grad_dec: Float,
    grad_enc: Float,
) -> None:
    """Gradients of W_dec [F, O] and W_enc [F, D] (transposed), a latent's pairs at a time.

    grad_dec[f] = scale * sum value * error[token], grad_enc[f] = sum push * inputs[token], with
    push [P] the slope in the pair's pre-activation. Those of latents that held [F] names are added
    to; of the others, rows without pairs become zero.
    """
    d_in, d_out = inputs.shape[1], errors.shape[2]
    factor = np.float32(scale)
    for f in range(first, last):
        into_dec = grad_dec[f]
        into_enc = grad_enc[f]
        if not held[f]:
            for j in range(d_out):
                into_dec[j] = 0
            for j in range(d_in):
                into_enc[j] = 0
        for i in range(starts[f], starts[f + 1]):
            p = order[i]
            value = factor * values[p]
            error = errors[groups[f], tokens[p]]
            if value != 0:
                for j in range(d_out):
                    into_dec[j] += value * error[j]
            row = inputs[tokens[p]]
            for j in range(d_in):
                into_enc[j] += push[p] * row[j]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def project(
    first: int, last: int, weight: Float, grad: Float, along: Float, squares: NDArray[np.float64]
) -> None:
    """along[f] = grad[f] . weight[f], the part along a row of unit norm, which renormalising would
    undo (Bricken et al. 2023); squares[f] = |grad[f]|^2 without that part."""
    width = weight.shape[1]
    for f in range(first, last):
        direction = weight[f]
        row = grad[f]
        dot = np.float32(0)
        for j in range(width):
            dot += direction[j] * row[j]
        total = np.float32(0)
        for j in range(width):
            left = row[j] - dot * direction[j]
            total += left * left
        along[f] = dot
        squares[f] = total


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def row_squares(first: int, last: int, grad: Float, squares: NDArray[np.float64]) -> None:
    """squares[f] = |grad[f]|^2."""
    width = grad.shape[1]
    for f in range(first, last):
        row = grad[f]
        total = np.float32(0)
        for j in range(width):
            total += row[j] * row[j]
        squares[f] = total
