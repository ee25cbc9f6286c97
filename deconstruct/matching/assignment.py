"""Rows of two dictionaries paired one to one, and what chance makes of rows like them.

The mean cosine of the pairs is PW-MCC (Song et al., Position: Mechanistic Interpretability Should
Prioritize Feature Consistency in SAEs, arXiv 2505.20254): signed cosines of decoder rows, the
Hungarian method. Of dictionaries of different size, the smaller one is assigned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from deconstruct.common.errors import DataError

NONE = -1
"""In the place of a partner, where there is none."""
OVER = 0.7
"""A cosine from which two latents are called the same one (Paulo and Belrose, arXiv 2501.16615)."""
NULL_PAIRS = 8192
"""Random pairs that a null is the mean of, at least, unless that takes more than `MOST_DRAWS`."""
MOST_DRAWS = 16
MOST_COSINES = 2**30
"""Cosines that are in memory at a time, 8 GiB of them: two dictionaries of 32,768."""
ROWS = 1024
"""Rows whose cosines are computed at a time."""


@dataclass(frozen=True)
class Assigned:
    """The rows of one dictionary beside those of another; arrays [n], of the first one's rows.

    partner: int64, row of the other one, or `NONE`. cosine: float64, with the partner; NaN without.
    max_cosine: float64, the largest with any row of the other one.
    """

    partner: NDArray[np.int64]
    cosine: NDArray[np.float64]
    max_cosine: NDArray[np.float64]

    @property
    def pw_mcc(self) -> float:
        """Mean cosine of the pairs."""
        return float(np.nanmean(self.cosine))

    @property
    def mean_max_cosine(self) -> float:
        """Mean of the largest cosines: many rows may have the same neighbour."""
        return float(self.max_cosine.mean())

    @property
    def share_over(self) -> float:
        """Share of the pairs whose cosine is above `OVER`."""
        paired = self.cosine[self.partner != NONE]
        return float((paired > OVER).mean())


def assign(own: NDArray[np.floating], other: NDArray[np.floating]) -> Assigned:
    """Pair the rows of two matrices so that the sum of the pairs' signed cosines is the largest.

    own: [n, d]; other: [m, d]; no row is all zeros. The assignment is exact and, of equal sums, the
    same each time. min(n, m) rows have a partner. 8192 by 8192 takes 8 s and 0.7 GB, twice as many
    rows eight times as long. Raises ``DataError`` as `check_sizes` does.
    """
    check_sizes(own, other)
    n, m = len(own), len(other)
    # The smaller one as rows, so that the solver takes the matrix as it is.
    rows, columns = (own, other) if n <= m else (other, own)
    cost = _opposed(rows, columns)
    nearest = -cost.min(1 if n <= m else 0)
    first, second = linear_sum_assignment(cost)
    mine, theirs = (first, second) if n <= m else (second, first)
    partner = np.full(n, NONE, np.int64)
    partner[mine] = theirs
    cosine = np.full(n, np.nan)
    for start in range(0, len(mine), ROWS):
        part = slice(start, start + ROWS)
        cosine[mine[part]] = cosines(own[mine[part]], other[theirs[part]])
    return Assigned(partner, cosine, np.minimum(nearest, 1.0))


def check_sizes(own: NDArray[np.floating], other: NDArray[np.floating]) -> None:
    """Raise ``DataError`` if the rows differ in width, or have more than `MOST_COSINES`."""
    (n, width), (m, other_width) = own.shape, other.shape
    if width != other_width:
        raise DataError(
            f"decoder rows of {width:,} numbers and of {other_width:,} have no cosine; name runs "
            "whose models are of one width"
        )
    if n * m > MOST_COSINES:
        raise DataError(
            f"the dictionaries have {n:,} and {m:,} living latents, whose cosines take "
            f"{n * m * 8 / 2**30:,.0f} GiB; match dictionaries of up to 32,768"
        )


def cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of each row of a with the same one of b, float64 [n]; of equal rows exactly 1."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    products = [np.einsum("ij,ij->i", x, y) for x, y in ((a, b), (a, a), (b, b))]
    # Of equal squares, the root of their product is the square to the last bit.
    return np.asarray(products[0] / np.sqrt(products[1] * products[2]))


def random_rows(shape: tuple[int, ...], others: int, seed: int) -> Iterator[Assigned]:
    """Assignments of evenly distributed directions, as many as `NULL_PAIRS` ask for.

    shape: of the one matrix; others: rows of the other one, of the same width.
    """
    n, width = shape
    draw = np.random.default_rng(seed)
    for _ in range(max(1, min(MOST_DRAWS, round(NULL_PAIRS / min(n, others))))):
        yield assign(draw.standard_normal((n, width)), draw.standard_normal((others, width)))


def calibrated(value: float, null: float) -> float:
    """Where a value lies between chance, 0, and a copy, 1."""
    return (value - null) / (1 - null)


def _opposed(rows: NDArray[np.floating], columns: NDArray[np.floating]) -> NDArray[np.float64]:
    """Negated cosines of all rows with all columns: float64 [rows, columns]."""
    found = np.empty((len(rows), len(columns)))
    turned = _unit(columns).T
    for start in range(0, len(rows), ROWS):
        part = slice(start, start + ROWS)
        np.matmul(-_unit(rows[part]), turned, out=found[part])
    return found


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))
