"""The kernel that moves weights: one pass of Adam over some rows.

It passes over the weights twice at most, and writes their bfloat16 copies as it goes. Works on rows
first <= row < last; `threads.share` calls it.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deconstruct.sae.engines.cpu.kernels.vectors import WIDTH, PackedRows, pack_row

Float = NDArray[np.float32]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def adam_rows(
    first: int,
    last: int,
    weight: Float,
    grad: Float,
    mean: Float,
    square: Float,
    rates: Float,
    roots: Float,
    along: Float,
    low: NDArray[np.uint16],
    packed: PackedRows,
    clip: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """Adam over the rows of one matrix [F, d_in], in one pass over memory (Kingma and Ba 2015).

    mean, square: the moments. grad: [F, D] with D >= d_in, multiplied by clip. rates: [F],
    learning rate over the first moment's bias correction, or 0: the row is left alone, moments
    and all. roots: [F], 1 over the square root of the second's.

    along: float32 [F]: the rows have unit norm, and keep it; along * weight is taken off the
    gradient first. Empty: they are free. low: uint16 [F, d_in], filled with the bfloat16 bits of
    the new weights, rounded to nearest even, or empty; packed: [S, F, HALF], the same packed, or
    empty.
    """
    d_in = weight.shape[1]
    keep1 = np.float32(beta1)
    keep2 = np.float32(beta2)
    new1 = np.float32(1 - beta1)
    new2 = np.float32(1 - beta2)
    scale = np.float32(clip)
    tiny = np.float32(epsilon)
    row = np.zeros(packed.shape[0] * WIDTH, np.float32)
    for f in range(first, last):
        step, root = rates[f], roots[f]
        if step == 0:
            continue
        off = along[f] if along.size else np.float32(0)
        total = np.float32(0)
        for j in range(d_in):
            g = scale * (grad[f, j] - off * weight[f, j])
            m = keep1 * mean[f, j] + new1 * g
            v = keep2 * square[f, j] + new2 * g * g
            mean[f, j] = m
            square[f, j] = v
            w = weight[f, j] - step * m / (np.sqrt(v) * root + tiny)
            weight[f, j] = w
            total += w * w
        if along.size:
            inverse = np.float32(1) / np.sqrt(max(total, np.float32(1e-30)))
            for j in range(d_in):
                weight[f, j] *= inverse
        if low.size:
            words = weight[f].view(np.uint32)
            for j in range(d_in):
                odd = (words[j] >> np.uint32(16)) & np.uint32(1)
                low[f, j] = (words[j] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        if packed.size:
            for j in range(d_in):
                row[j] = weight[f, j]
            for s in range(packed.shape[0]):
                pack_row(row[s * WIDTH :].ctypes.data, packed[s, f].ctypes.data)
