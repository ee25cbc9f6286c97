"""Measures of scores, each with the part that every document has in it.

A part is the measure plus the document's influence on it, so that the mean of the parts is the
measure, and what happens to that mean when other documents are drawn is, but for terms of higher
order, what happens to the measure (the infinitesimal jackknife: Efron 1982). So intervals, and
differences between measures of the same documents, are made of parts alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Parts of sum(top) / sum(bottom); [n] or [n, m]."""
    value = top.sum(0) / bottom.sum(0)
    part: Floats = value + (top - value * bottom) / bottom.mean(0)
    return part


def auroc(score: Floats, positive: NDArray[np.bool_]) -> Floats | None:
    """Of the area under the ROC curve, ties counted half: DeLong's placements (1988).

    None if there are no positives or no negatives.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return None
    rank = rankdata(score)
    right_side = np.empty(len(score))
    right_side[positive] = (rank[positive] - rankdata(score[positive])) / n
    right_side[~positive] = 1 - (rank[~positive] - rankdata(score[~positive])) / m
    return _by_side(right_side, positive, float(right_side[positive].mean()))


def auroc_where_fires(value: Floats, within: NDArray[np.bool_], n_in: float, n_out: float) -> float:
    """The area under the ROC curve of a latent that is silent (0) in most documents.

    value: above 0, of the documents in which it fires; within: which of these are of the kind that
    is told from the others. n_in, n_out: how many documents there are of either, both above 0.
    """
    _, place = np.unique(value, return_inverse=True)
    ins, outs = np.bincount(place, within), np.bincount(place, ~within)
    silent_in, silent_out = n_in - within.sum(), n_out - (~within).sum()
    below = silent_out + np.cumsum(outs) - outs / 2
    return float((ins @ below + silent_in * silent_out / 2) / (n_in * n_out))


def balanced_accuracy(said: NDArray[np.bool_], positive: NDArray[np.bool_]) -> Floats | None:
    """Of the mean of the shares of positives and of negatives that are called so."""
    if positive.all() or not positive.any():
        return None
    hit = (said == positive).astype(np.float64)
    value = (hit[positive].mean() + hit[~positive].mean()) / 2
    part: Floats = value + _by_side(hit, positive, 0.0) / 2
    return part


def _by_side(own: Floats, positive: NDArray[np.bool_], value: float) -> Floats:
    """value + each one's distance from the mean of its side, over the share of its side."""
    part = np.empty(len(own))
    for side in (positive, ~positive):
        part[side] = value + (own[side] - own[side].mean()) / side.mean()
    return part


def average_precision(score: Floats, positive: NDArray[np.bool_]) -> Floats | None:
    """Of the mean over the positives of the precision at their score. None without positives."""
    n = len(score)
    if not positive.any():
        return None
    _, level, count = np.unique(-score, return_inverse=True, return_counts=True)
    at_least = np.cumsum(count)  # how many score as high, from the highest
    right = np.cumsum(np.bincount(level, positive, len(count)))
    precision = (right / at_least)[level]
    value = precision[positive].mean()
    # Of a document, what it does to the precision of all positives that score no higher.
    own = np.bincount(level, positive, len(count))
    one = _onward(own / at_least)[level]
    more = _onward(own * (right / at_least) / at_least)[level]
    influence = positive * (precision - value) + positive * one - more
    part: Floats = value + influence / (positive.sum() / n)
    return part


def _onward(of_level: Any) -> Floats:
    """The sum of each entry and of all after it."""
    total: Floats = np.cumsum(of_level[::-1])[::-1]
    return total


def r2(told: Floats, truth: Floats) -> Floats | None:
    """Of 1 - sum of squared errors / sum of squares about the mean. None if truth is constant."""
    square = (truth - truth.mean()) ** 2
    if not square.any():
        return None
    return ratio(square - (truth - told) ** 2, square)


def spearman(told: Floats, truth: Floats) -> Floats | None:
    """Of the correlation of ranks, ties in the middle. None if either is constant."""
    x, y = ((rankdata(one) - 0.5) / len(one) - 0.5 for one in (told, truth))
    scale = np.sqrt((x**2).mean() * (y**2).mean())
    if scale == 0:
        return None
    value = float((x * y).mean() / scale)
    # A document's own product, and what it does to the ranks of the others.
    moved = x * y + _above(told, y) + _above(truth, x)
    part: Floats = value + (moved - moved.mean()) / scale
    return part


def _above(score: Floats, of: Floats) -> Floats:
    """For each document the mean over all of ``of`` where they score higher; half where equal."""
    _, level = np.unique(score, return_inverse=True)
    sums = np.bincount(level, of)
    found: Floats = (_onward(sums)[level] - sums[level] / 2) / len(score)
    return found
