"""Bootstrap intervals over documents, or groups of documents.

Tokens of one document are not independent, nor are documents of one group (texts alike, rows of
one author), so whole groups are resampled (Efron and Tibshirani 1993; the cluster bootstrap of
Field and Welsh 2007), and a ratio is recomputed from resampled sums. All statistics of one call see
the same resamples, so that differences are paired. The intervals speak of the choice of documents
alone, not of the seed of a training. One group alone has no interval: its resamples are all equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
BLOCK_COUNTS = 1 << 22
"""Draws that are in memory at a time: 32 MiB of them."""

Sums = Mapping[str, NDArray[np.float64]]
Statistic = Callable[[Sums], NDArray[np.float64]]
"""From totals, name -> [n], to [n] values."""


class Estimate(NamedTuple):
    """A value and the ends of its 95% interval; None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bootstrap:
    """``resamples`` draws of as many groups as there are with replacement, the same for a seed.

    groups: [documents], equal where documents are of one group; None: each is its own.
    """

    documents: int
    resamples: int
    seed: int
    groups: NDArray[np.int64] | None = None

    @cached_property
    def _group(self) -> NDArray[np.int64]:
        """[documents], numbered from 0."""
        if self.groups is None:
            return np.arange(self.documents)
        return np.unique(self.groups, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def drawn(self) -> int:
        """How many groups there are to draw."""
        return int(self._group.max()) + 1 if self.documents else 0

    def counts(self) -> Iterator[NDArray[np.float64]]:
        """How often each document is drawn, with its group: blocks [some resamples, documents]."""
        draw = np.random.default_rng(self.seed)
        chance = np.full(self.drawn, 1 / self.drawn)
        step = max(1, BLOCK_COUNTS // self.documents)
        for first in range(0, self.resamples, step):
            size = min(step, self.resamples - first)
            counts = draw.multinomial(self.drawn, chance, size).astype(np.float64)
            yield counts if self.drawn == self.documents else counts[:, self._group]

    def estimates(self, sums: Sums, statistics: Mapping[str, Statistic]) -> dict[str, Estimate]:
        """Each statistic with its percentile interval.

        sums: name -> [documents].
        """
        stacked = np.stack(list(sums.values()), 1)
        drawn = np.concatenate([counts @ stacked for counts in self.counts()])
        whole = dict(zip(sums, stacked.sum(0)[:, None], strict=True))
        totals = dict(zip(sums, drawn.T, strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                name: self.estimate(statistic(whole)[0], statistic(totals))
                for name, statistic in statistics.items()
            }

    def estimate(self, value: float, drawn: NDArray[np.float64]) -> Estimate:
        """A value with the ends of the interval that holds 95% of its resampled ones.

        drawn: [resamples]; those that are not finite are left out. If none is left, or there is
        but one group, there is no interval.
        """
        drawn = drawn[np.isfinite(drawn)]
        if self.drawn < 2 or len(drawn) == 0:
            return Estimate(float(value))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Estimate(float(value), float(low), float(high))
