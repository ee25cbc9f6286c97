"""Spherical k-means among rows of which only the cosines are needed, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.common.cores import even, share

STARTS = 10
ROUNDS = 100
COLUMNS = 1024
"""Columns that are made dense at a time."""
PARTS = 16
"""In which products are shared out; a fixed number, or sums would be of other parts elsewhere."""
DENSE = 0.05
"""Columns of a larger share of numbers are multiplied as dense ones."""

Rows = Any
"""[n, features], of unit length: a scipy CSR matrix or a numpy array."""
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """labels: [n], from 0, the largest cluster first. silhouette: their mean; nan where there is
    but one cluster, or one for each row."""

    labels: Labels
    silhouette: float

    @property
    def k(self) -> int:
        """How many there are: fewer than were asked for where rows are equal."""
        return int(self.labels.max()) + 1


def cosines(rows: Rows) -> NDArray[np.float32]:
    """[n, n]. Called within `one_blas_thread`."""
    n = rows.shape[0]
    gram = np.zeros((n, n), np.float32)
    columns = sparse.csc_matrix(rows, dtype=np.float32) if sparse.issparse(rows) else rows
    if sparse.issparse(columns):
        dense = np.diff(columns.indptr) > DENSE * n
        rare = columns[:, ~dense].tocsr()
        for first in range(0, n, 512):
            gram[first : first + 512] = (rare[first : first + 512] @ rare.T).toarray()
        columns = columns[:, dense]

    def multiply(first: int, last: int, block: NDArray[np.float32]) -> None:
        gram[first:last] += block[first:last] @ block.T

    for first in range(0, columns.shape[1], COLUMNS):
        block = columns[:, first : first + COLUMNS]
        block = block.toarray() if sparse.issparse(block) else block
        share(multiply, even(n, PARTS), np.ascontiguousarray(block, np.float32))
    return gram


def spherical_kmeans(
    gram: NDArray[np.float32], k: int, draw: np.random.Generator, starts: int = STARTS
) -> Clusters:
    """k-means by cosine (Dhillon and Modha 2001): the best of so many starts.

    gram: [n, n], cosines of all rows with each other. Each start is greedy k-means++, then Lloyd's
    rounds until no row moves, `ROUNDS` at most; what is maximised is the sum of the rows' cosines
    with their centres. Clusters are numbered from the largest to the smallest.
    """
    from deconstruct.cluster.kernels.lloyd import seed, settle  # loads numba

    n = len(gram)
    draws = draw.random((starts, k, 2 + int(np.log(k))))
    labels, sums = np.empty((starts, n), np.int32), np.empty((starts, k, n), np.float32)
    for start in range(starts):
        seed(gram, draws[start], labels[start])
    best = int(np.argmax(settle(gram, labels, sums, ROUNDS)))
    return Clusters(largest_first(labels[best]), silhouette(labels[best], sums[best]))


def centres_of(rows: Rows, labels: Labels) -> NDArray[np.float64]:
    """Unit centres [k, features] of the clusters of rows [n, features]."""
    from sklearn.preprocessing import normalize

    shape = (int(labels.max()) + 1, len(labels))
    inside = sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape)
    sums = inside @ rows
    centres: NDArray[np.float64] = normalize(sums.toarray() if sparse.issparse(sums) else sums)
    return centres


def largest_first(labels: NDArray[np.int32]) -> Labels:
    """The same clusters without empty ones, numbered by size; of equal ones, the first row's."""
    found, first, own, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort([first, -sizes])
    number = np.empty(len(found), np.int64)
    number[order] = np.arange(len(found))
    return number[own]


def silhouette(labels: NDArray[np.int32], sums: NDArray[np.float32]) -> float:
    """Mean silhouette by distance 1 - cosine (Rousseeuw 1987); 0 of a row alone in its cluster.

    sums: [k, n] of each row's cosines with the rows of each cluster.
    """
    k, n = sums.shape
    sizes = np.bincount(labels, minlength=k).astype(np.float64)
    if not 1 < np.count_nonzero(sizes) < n:
        return float("nan")
    rows = np.arange(n)
    own = sizes[labels]
    within = np.maximum(own - sums[labels, rows], 0) / np.maximum(own - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = 1 - sums / sizes[:, None]
    between[sizes == 0] = np.inf
    between[labels, rows] = np.inf
    nearest = np.maximum(between.min(0), 0)
    larger = np.maximum(within, nearest)
    alone = (own == 1) | (larger == 0)
    score = np.where(alone, 0, (nearest - within) / np.where(alone, 1, larger))
    return float(score.mean())


def shuffled(rows: Rows, draw: np.random.Generator) -> Rows:
    """Each column's numbers over other rows, which are scaled to unit length again.

    What columns have on their own stays: how many of their numbers are zero, how large the others
    are. What columns have in common goes: rows are alike by chance alone.
    """
    from sklearn.preprocessing import normalize

    n = rows.shape[0]
    if not sparse.issparse(rows):
        return normalize(draw.permuted(rows, axis=0))
    columns = sparse.csc_matrix(rows, copy=True)
    for first, last in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
        columns.indices[first:last] = draw.choice(n, last - first, replace=False)
    return normalize(sparse.csr_matrix(columns))
