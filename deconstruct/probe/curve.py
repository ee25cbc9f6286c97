"""How well labels are read off after few documents: the label efficiency of representations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.stats import rankdata

from deconstruct.probe.solvers import logistic
from deconstruct.probe.task import Task
from deconstruct.probe.vectors import JITTER, Floats, Ints, Vectors

PER_CLASS = (2, 5, 10, 20, 50)
DRAWS = 10
STRENGTH = 1.0
"""C, times the vectors' mean squared length: few documents can't choose it."""


class Point(NamedTuple):
    """n: train documents a class. value: macro AUROC on all held-out documents."""

    n: int
    draw: int
    value: float


def curve(vectors: Vectors, task: Task, seed: int) -> Iterator[Point]:
    """Points of a task of classes; which documents a draw takes depends on seed, n and draw alone.

    No points of an n that some class has not.
    """
    z, fitted = vectors.coordinates, task.fitted
    told = task.test_truth[:, fitted] > 0
    judged = told.any(0) & ~told.all(0)
    if not judged.any():
        return
    for n in PER_CLASS:
        if task.train_truth.sum(0).min() < n:
            return
        weights = np.zeros((z.shape[1], DRAWS * len(fitted)))
        for draw in range(DRAWS):
            rows = drawn(task.train_truth, n, (seed, n, draw))
            own = _weights(z[rows], task.train_truth[rows][:, fitted], vectors.size)
            weights[:, draw * len(fitted) : (draw + 1) * len(fitted)] = own
        # Intercepts move no area.
        areas = _areas(vectors.apply(weights).reshape(len(told), DRAWS, -1), told)
        for draw, value in enumerate(areas[:, judged].mean(1)):
            yield Point(n, draw, float(value))


def drawn(truth: Floats, n: int, seed: tuple[int, ...]) -> Ints:
    """Rows of n documents of each class, ascending. truth: [documents, classes]."""
    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(np.flatnonzero(own))[:n] for own in truth.T]
    return np.sort(np.concatenate(chosen))


def _weights(z: Floats, truth: Floats, size: float) -> Floats:
    """Of logistic models of a few rows, by their products with each other: [r, m]."""
    gram = z @ z.T
    gram[np.diag_indices_from(gram)] += JITTER * max(np.trace(gram) / len(gram), 1e-300)
    root = linalg.cholesky(gram, lower=True)
    own, _ = logistic(root, truth, np.full(truth.shape[1], STRENGTH / size))
    weights: Floats = z.T @ linalg.solve_triangular(root, own, lower=True, trans=1)
    return weights


def _areas(score: Floats, positive: np.ndarray) -> Floats:
    """Areas under the ROC curve, ties counted half: [draws, m]. score: [n, draws, m]."""
    rank = rankdata(score, axis=0)
    m = positive.sum(0)
    n = len(positive) - m
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = (rank * positive[:, None]).sum(0)
        return np.asarray((sums - m * (m + 1) / 2) / (m * n))
