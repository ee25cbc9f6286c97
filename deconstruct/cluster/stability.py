"""Are clusters found again in part of the documents? Which of them, and how many?

A fit on 80% of the rows is the same method from starts of its own (`spherical_kmeans`). None is
warm: starts from the centres of all rows would make fits agree that would not. Rows are left out by
group, as one of a group would vouch for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconstruct.cluster.kmeans import Labels, spherical_kmeans
from deconstruct.common.cores import each_on_one_thread

KS = (*range(2, 13), 14, 16, 20, 24)
"""Numbers of clusters that are tried."""
SHARE = 0.8
FEWEST_FITS = 3
"""That a standard error by a jackknife needs."""
ABSENT = -1


@dataclass(frozen=True)
class Fits:
    """What came of some rows for several numbers of clusters.

    ks: [K]. labels: [K, n], of fits on all rows. silhouette: [K], of those. parts: [K, fits, n], of
    fits on part of the rows; `ABSENT` where a row was not among them.
    """

    ks: tuple[int, ...]
    labels: NDArray[np.int64]
    silhouette: NDArray[np.float64]
    parts: NDArray[np.int16]

    def stability(self, at: int) -> tuple[float, float]:
        """Mean adjusted Rand index of pairs of fits on the rows that both had; standard error.

        The error is a jackknife's, which leaves out one fit at a time: pairs have fits in common.
        """
        parts = self.parts[at]
        fits = len(parts)
        index = np.zeros((fits, fits))
        for a in range(fits):
            for b in range(a):
                both = (parts[a] != ABSENT) & (parts[b] != ABSENT)
                index[a, b] = index[b, a] = adjusted_rand(parts[a, both], parts[b, both])
        total = index.sum()
        without = (total - 2 * index.sum(1)) / ((fits - 1) * (fits - 2))
        error = np.sqrt((fits - 1) / fits * np.sum((without - without.mean()) ** 2))
        return float(total / (fits * (fits - 1))), float(error)

    def possible(self, at: int) -> bool:
        """Whether so many clusters come out: fewer do where rows are equal."""
        found = np.array([len(np.unique(part[part != ABSENT])) for part in self.parts[at]])
        return bool(np.mean(found == self.ks[at]) > 0.5)

    def found_again(self, at: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Jaccard similarity of each cluster of all rows, and support of each row.

        jaccard: [clusters], with the cluster most like it of a fit on part of the rows, among
        these rows, mean over the fits that had any of its rows (Hennig 2007, doi
        10.1016/j.csda.2006.11.025). support: [n], of the fits that had the row, the share in which
        it was in that most similar cluster; nan if none had it.
        """
        labels, parts = self.labels[at], self.parts[at]
        clusters = int(labels.max()) + 1
        similar = np.full((len(parts), clusters), np.nan)
        stayed, was = np.zeros(len(labels)), np.zeros(len(labels))
        for fit, part in enumerate(parts):
            there = np.flatnonzero(part != ABSENT)
            shared = contingency(labels[there], part[there], clusters)
            either = shared.sum(1, keepdims=True) + shared.sum(0) - shared
            jaccard = shared / np.maximum(either, 1)
            match = jaccard.argmax(1)
            some = shared.sum(1) > 0
            similar[fit, some] = jaccard.max(1)[some]
            stayed[there] += part[there] == match[labels[there]]
            was[there] += 1
        support = np.divide(stayed, was, out=np.full(len(labels), np.nan), where=was > 0)
        fits = np.isfinite(similar).sum(0)
        total = np.nansum(similar, 0)
        return np.divide(total, fits, out=np.full(clusters, np.nan), where=fits > 0), support


def fit_parts(
    gram: NDArray[np.float32],
    groups: NDArray[np.int64],
    ks: Sequence[int],
    fits: int,
    seed: int,
    advance: Callable[[int], None],
) -> Fits:
    """Fit all rows, and ``fits`` times those of 80% of the groups, for each number of clusters.

    gram: [n, n] cosines. groups: [n], numbered from 0. What is drawn depends on the seed, the fit
    and the number of clusters alone; fits are made side by side, each on one thread. advance: told
    of each.
    """
    import deconstruct.cluster.kernels.lloyd  # noqa: F401 - before the threads that need it

    n = len(gram)
    labels = np.empty((len(ks), n), np.int64)
    silhouette = np.empty(len(ks))
    parts = np.full((len(ks), fits, n), ABSENT, np.int16)

    def fit(number: int) -> None:
        rows = part_of(groups, np.random.default_rng([seed, number])) if number else np.arange(n)
        own = gram[np.ix_(rows, rows)] if number else gram
        for at, k in enumerate(ks):
            found = spherical_kmeans(own, k, np.random.default_rng([seed, number, k]))
            if number:
                parts[at, number - 1, rows] = found.labels
            else:
                labels[at], silhouette[at] = found.labels, found.silhouette

    for _ in each_on_one_thread(fit, range(fits + 1)):
        advance(1)
    return Fits(tuple(ks), labels, silhouette, parts)


def part_of(groups: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
    """Rows of 80% of the groups, ascending; two groups are both taken."""
    count = int(groups.max()) + 1
    taken = np.zeros(count, np.bool_)
    taken[draw.permutation(count)[: max(1, round(SHARE * count))]] = True
    return np.flatnonzero(taken[groups])


def choose(real: Fits, null: Fits) -> int:
    """Which of the numbers of clusters: the largest that is as stable as any.

    Stable: the stability less that of shuffled columns, within one standard error of the best. Few
    clusters tend to be stable whatever the data; the null takes off what is no more than that, and
    of those that are left the largest number says most. Labels are not looked at.
    """
    measured = [real.stability(at) for at in range(len(real.ks))]
    beyond = np.array([value - null.stability(at)[0] for at, (value, _) in enumerate(measured)])
    able = np.array([real.possible(at) for at in range(len(real.ks))])
    if not able.any():
        return 0
    beyond[~able] = -np.inf
    best = int(np.argmax(beyond))
    return int(np.flatnonzero(beyond >= beyond[best] - measured[best][1])[-1])


def contingency(a: Labels, b: Labels, clusters: int) -> NDArray[np.float64]:
    """[clusters, clusters of b]: rows that two partitions have in common."""
    others = int(b.max(initial=0)) + 1
    flat = np.bincount(a.astype(np.int64) * others + b, minlength=clusters * others)
    return flat.reshape(clusters, others).astype(np.float64)


def adjusted_rand(a: Labels, b: Labels) -> float:
    """Adjusted Rand index of two partitions of the same rows (Hubert and Arabie 1985)."""
    shared = contingency(a, b, int(a.max(initial=0)) + 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float(np.sum(counts * (counts - 1)) / 2)

    both, first, second = pairs(shared), pairs(shared.sum(1)), pairs(shared.sum(0))
    expected = first * second / max(len(a) * (len(a) - 1) / 2, 1)
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)
