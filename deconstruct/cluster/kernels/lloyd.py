"""Spherical k-means from cosines alone, in numba.

The centre of a cluster is the sum of its rows of unit length, scaled to unit length: its cosine
with each row is a sum of cosines between rows, and its length is the square root of such a sum. So
the rows themselves are not needed, and a round costs as much as rows have moved in it: the sums of
the others stay. Each call computes on one thread, in the order of the rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

SMALLEST = 1e-12
"""Length of a centre below which it has no direction."""


@njit(cache=True, nogil=True)
def seed(gram: NDArray[np.float32], draws: NDArray[np.float64], labels: NDArray[np.int32]) -> None:
    """Rows to start from by greedy k-means++ (Arthur and Vassilvitskii 2007), and who is nearest.

    gram: [n, n] cosines. draws: [k, trials] of 0 to 1. labels: [n], written: of each row, the
    nearest of the starting rows. Of ``trials`` rows drawn by their distance (2 - 2 cosine) from
    those that are there, the one that leaves the least is taken. Fewer than k where rows are equal.
    """
    n = gram.shape[0]
    best = np.empty(n, np.float32)
    reached = np.empty(n, np.float64)
    first = min(int(draws[0, 0] * n), n - 1)
    for i in range(n):
        best[i] = gram[first, i]
        labels[i] = 0
    for c in range(1, draws.shape[0]):
        total = 0.0
        for i in range(n):
            total += max(1.0 - best[i], 0.0)
            reached[i] = total
        if total < 1e-6 * n:
            return
        pick, most = -1, -np.inf
        for t in range(draws.shape[1]):
            candidate = min(np.searchsorted(reached, draws[c, t] * total, side="right"), n - 1)
            near = 0.0
            for i in range(n):
                near += max(best[i], gram[candidate, i])
            if near > most:
                pick, most = candidate, near
        for i in range(n):
            if gram[pick, i] > best[i]:
                best[i] = gram[pick, i]
                labels[i] = c


@njit(cache=True, nogil=True)
def settle(
    gram: NDArray[np.float32], labels: NDArray[np.int32], sums: NDArray[np.float32], rounds: int
) -> NDArray[np.float64]:
    """Lloyd's rounds of several starts until no row moves, or ``rounds`` of them.

    Returns [starts], the sum of the centres' lengths, which is that of the rows' cosines with their
    own centres: what k-means maximises. gram: [n, n]. labels: [starts, n], changed in place. sums:
    [starts, k, n], written: sums of cosines of each row with the rows of each cluster. A cluster
    that lost all of its rows stays empty. Of centres that are equally near, a row takes its own,
    or else the first. Starts don't meet: they go side by side so that cosines are read once.
    """
    starts, k, n = sums.shape
    sums[:] = 0
    before = np.full_like(labels, -1)
    moved = np.ones(starts, np.bool_)
    values = np.zeros(starts, np.float64)
    inverse = np.empty(k, np.float32)
    nearest = np.empty(n, np.float32)
    for step in range(rounds + 1):
        _move(gram, before, labels, sums, moved)
        for s in range(starts):
            if not moved[s]:
                continue
            values[s] = _scale(labels[s], sums[s], inverse)
            before[s] = labels[s]
            moved[s] = step < rounds and _look(before[s], sums[s], inverse, nearest, labels[s])
        if not moved.any():
            break
    return values


@njit(cache=True, nogil=True)
def _move(
    gram: NDArray[np.float32],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    sums: NDArray[np.float32],
    moved: NDArray[np.bool_],
) -> None:
    """Take rows from the sums of the clusters where they were (-1: nowhere) to where they are."""
    starts, _, n = sums.shape
    for i in range(n):
        row = gram[i]
        for s in range(starts):
            old, new = before[s, i], after[s, i]
            if not moved[s] or old == new:
                continue
            if old >= 0:
                left = sums[s, old]
                for j in range(n):
                    left[j] -= row[j]
            into = sums[s, new]
            for j in range(n):
                into[j] += row[j]


@njit(cache=True, nogil=True)
def _scale(
    labels: NDArray[np.int32], sums: NDArray[np.float32], inverse: NDArray[np.float32]
) -> float:
    """1 / the length of each centre, 0 of an empty one; returns the sum of the lengths."""
    k, n = sums.shape
    squares = np.zeros(k, np.float64)
    for i in range(n):
        squares[labels[i]] += sums[labels[i], i]
    total = 0.0
    for c in range(k):
        length = np.sqrt(max(squares[c], 0.0))
        inverse[c] = 1 / length if length > SMALLEST else 0.0
        total += length
    return total


@njit(cache=True, nogil=True)
def _look(
    labels: NDArray[np.int32],
    sums: NDArray[np.float32],
    inverse: NDArray[np.float32],
    nearest: NDArray[np.float32],
    found: NDArray[np.int32],
) -> bool:
    """Write the nearest centre of each row; whether it is another for any of them."""
    k, n = sums.shape
    for i in range(n):
        found[i] = labels[i]
        nearest[i] = sums[labels[i], i] * inverse[labels[i]]
    for c in range(k):
        if inverse[c] == 0:
            continue
        for i in range(n):
            cosine = sums[c, i] * inverse[c]
            if cosine > nearest[i]:
                nearest[i] = cosine
                found[i] = c
    other = 0
    for i in range(n):
        other += found[i] != labels[i]
    return other > 0
