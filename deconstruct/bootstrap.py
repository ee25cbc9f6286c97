"""Bootstrap intervals over documents.

Tokens of one document are not independent, so whole documents are resampled (Efron and Tibshirani
1993), and a ratio is recomputed from resampled sums. The intervals speak of the choice of
documents alone, not of the seed of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95

Sums = Mapping[str, NDArray[np.float64]]


def resample_counts(documents: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each document is drawn in each resample: [resamples, documents]."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(documents, np.full(documents, 1 / documents), resamples).astype(float)


def interval(
    sums: Sums,
    statistic: Callable[[Sums], NDArray[np.float64]],
    counts: NDArray[np.float64],
) -> tuple[float, float, float]:
    """Value of a statistic and the ends of its 95% percentile interval.

    sums: name -> [documents]. statistic: from totals, given as name -> [n], to [n] values.
    counts: from `resample_counts`. NaN resamples are left out; none left gives NaN ends.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        value = statistic({name: own.sum(keepdims=True) for name, own in sums.items()})[0]
        drawn = statistic({name: counts @ own for name, own in sums.items()})
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return float(value), float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(value), float(low), float(high)
