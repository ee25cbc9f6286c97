"""Documents as vectors, standardised by the train ones: what probes need of a matrix, in blocks.

A model of all dimensions depends on the train documents by their products with each other alone. So
where there are more dimensions than documents, models are fitted in as many coordinates as there
are documents, which have the same products: the Cholesky factor of the Gram matrix. It is made once
and serves all folds, labels and strengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Matrix = Any  # a scipy sparse matrix or a numpy array, [documents, dimensions]

COLUMNS = 512
"""Dimensions that are dense in float64 at a time."""
CONSTANT = 1e-10
"""A dimension whose spread is so small a part of its mean is constant, but for rounding."""
JITTER = 1e-10
"""Added to the Gram matrix, of its mean diagonal: it is singular where texts are alike."""


class Vectors:
    """Rows of train and of test documents in one representation.

    train, test: [documents, dimensions]. standardised: by mean and standard deviation of the train
    rows; otherwise as they are: rows of TF-IDF have unit length, and scaling their columns would
    undo the IDF.
    """

    def __init__(self, train: Matrix, test: Matrix, standardised: bool = True) -> None:
        self._train: Matrix = train.tocsc() if sparse.issparse(train) else np.asarray(train)
        self._test: Matrix = test.tocsc() if sparse.issparse(test) else np.asarray(test)
        self.documents, self.dimensions = train.shape
        self._standardised = standardised

    def blocks(self, test: bool = False) -> Iterator[tuple[slice, Floats]]:
        """Some dimensions after another of the train (or test) rows: float64 [documents, some]."""
        mean, inverse = self._moments
        for first in range(0, self.dimensions, COLUMNS):
            at = slice(first, min(first + COLUMNS, self.dimensions))
            block = _dense(self._test if test else self._train, at)
            if self._standardised:
                block = (block - mean[at]) * inverse[at]
            yield at, block

    @cached_property
    def _moments(self) -> tuple[Floats, Floats]:
        """Mean of each dimension over the train rows, and one over its standard deviation; 0 for
        constant ones. In two passes: of a large mean nothing cancels."""
        mean, inverse = np.zeros(self.dimensions), np.ones(self.dimensions)
        if self._standardised:
            for first in range(0, self.dimensions, COLUMNS):
                at = slice(first, min(first + COLUMNS, self.dimensions))
                mean[at], inverse[at] = moments(_dense(self._train, at))
        return mean, inverse

    @property
    def inverse(self) -> Floats:
        """One over each dimension's standard deviation: [dimensions]."""
        return self._moments[1]

    @property
    def _primal(self) -> bool:
        return bool(self.dimensions <= self.documents)

    @cached_property
    def coordinates(self) -> Floats:
        """[train documents, r]: as far from each other, and from zero, as the vectors are."""
        if self._primal:
            return np.concatenate([block for _, block in self.blocks()], 1)
        gram = np.zeros((self.documents, self.documents))
        if sparse.issparse(self._train) and not self._standardised:
            rows = self._train.tocsr().astype(np.float64)
            gram += (rows @ rows.T).toarray()
        else:
            for _, block in self.blocks():
                gram += block @ block.T
        gram[np.diag_indices_from(gram)] += JITTER * max(np.trace(gram) / self.documents, 1e-300)
        return np.ascontiguousarray(linalg.cholesky(gram, lower=True, overwrite_a=True))

    @cached_property
    def size(self) -> float:
        """Mean squared length of a train row; 1 where all are zero."""
        return float((self.coordinates**2).sum() / self.documents) or 1.0

    def apply(self, weights: Floats) -> Floats:
        """What linear models of the coordinates say of the test rows: [test documents, m].

        weights: [r, m].
        """
        found = np.zeros((self._test.shape[0], weights.shape[1]))
        own = self.weights(weights)
        for (at, block), part in zip(self.blocks(test=True), own, strict=True):
            found += block @ part
            del at
        return found

    def weights(self, weights: Floats) -> Iterator[Floats]:
        """The same models' weights on the dimensions: blocks [some, m] as `blocks` has them."""
        if self._primal:
            for first in range(0, self.dimensions, COLUMNS):
                yield weights[first : first + COLUMNS]
            return
        dual = linalg.solve_triangular(self.coordinates, weights, lower=True, trans=1)
        for _, block in self.blocks():
            yield block.T @ dual

    def columns(self, chosen: Ints) -> tuple[Floats, Floats]:
        """Some dimensions of the train and of the test rows, standardised: dense float64."""
        train = _dense(self._train, chosen)
        mean, inverse = moments(train)
        return (train - mean) * inverse, (_dense(self._test, chosen) - mean) * inverse

    def strongest(self, truth: Floats, parts: Sequence[Ints], most: int) -> list[Ints]:
        """For each part of the train rows the dimensions that tell each target best: [t, most].

        Ranked by the correlation with the target, whatever its sign: of a class that is the order
        of the difference of its mean from that of the rest, over the pooled standard deviation.
        Gurnee et al. 2023 (arXiv 2305.01610) rank by the difference alone; dividing it is ours, so
        that a loud dimension is no better for it. truth: [train documents, t]. parts: row numbers.
        """
        count, most = truth.shape[1], min(most, self.dimensions)
        inside = np.zeros((len(parts), self.documents))
        centred = np.zeros((len(parts), count, self.documents))
        for number, rows in enumerate(parts):
            inside[number, rows] = 1
            centred[number][:, rows] = (truth[rows] - truth[rows].mean(0)).T
        stacked = centred.reshape(-1, self.documents)
        best = np.zeros((len(parts), count, 0))
        place = np.zeros((len(parts), count, 0), np.int64)
        rows_in = inside.sum(1)[:, None]
        for at, block in self.blocks():
            squares = inside @ block**2
            around = squares - (inside @ block) ** 2 / rows_in
            spread = np.sqrt(np.where(around > 1e-12 * squares, around, np.inf))
            told = np.abs(stacked @ block).reshape(len(parts), count, -1) / spread[:, None]
            best = np.concatenate([best, told], 2)
            own = np.broadcast_to(np.arange(at.start, at.stop), told.shape)
            place = np.concatenate([place, own], 2)
            order = np.argsort(-best, axis=2, kind="stable")[..., :most]
            best, place = np.take_along_axis(best, order, 2), np.take_along_axis(place, order, 2)
        return list(place)


def moments(x: Floats) -> tuple[Floats, Floats]:
    """Mean of each column, and one over its standard deviation; 0 for a constant one."""
    mean = x.mean(0)
    spread = np.sqrt(((x - mean) ** 2).mean(0))
    varies = spread > CONSTANT * np.abs(mean)
    return mean, np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)


def _dense(matrix: Matrix, columns: Any) -> Floats:
    found = matrix[:, columns]
    dense = found.toarray() if sparse.issparse(found) else found
    return np.asarray(dense, np.float64)
