"""Probes of a task on one representation: what they read and how strong, chosen on train documents.

C is chosen by the log loss (of numbers: the squared error) of inner folds, for each label, and so
are, in each of them anew, the dimensions of a sparse probe. It is told in units of the vectors'
mean squared length, so that the same values suit one dimension and ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from deconstruct.probe.solvers import log_loss, logistic, newton, ridge
from deconstruct.probe.task import Task
from deconstruct.probe.vectors import Floats, Ints, Vectors

STRENGTHS = np.array([0.1, 1.0, 10.0, 100.0, 1000.0])
"""Values of C, times the vectors' mean squared length, that the folds choose from."""
OF_NUMBERS = np.array([0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
TARGETS_AT_ONCE = 8
ELEMENTS_AT_ONCE = 1 << 21
"""Of the largest array that Newton's method makes: 16 MiB."""


class Fitted(NamedTuple):
    """Models of all dimensions. scores: what they say of the test rows, [test documents, fitted].
    weights: in the vectors' coordinates, [r, fitted]."""

    scores: Floats
    weights: Floats


def on_all(vectors: Vectors, task: Task, folds: list[tuple[Ints, Ints]]) -> Fitted:
    """Models of all dimensions, one for each fitted target."""
    z, truth = vectors.coordinates, task.train_truth[:, task.fitted]
    weights = np.zeros((z.shape[1], truth.shape[1]))
    intercept = np.zeros(truth.shape[1])
    if task.kind == "number":
        strengths = OF_NUMBERS / vectors.size
        loss = np.zeros((len(strengths), 1))
        for fit, judge in folds:
            w, b = ridge(z[fit], truth[fit, 0], strengths)
            loss += ((z[judge] @ w + b - truth[judge]) ** 2).sum(0)[:, None]
        weights, intercept = ridge(z, truth[:, 0], strengths[_least(loss)])
        return Fitted(vectors.apply(weights) + intercept, weights)
    strengths = STRENGTHS / vectors.size
    for first in range(0, truth.shape[1], TARGETS_AT_ONCE):
        at = slice(first, first + TARGETS_AT_ONCE)
        own = truth[:, at]
        loss = np.zeros((len(strengths), own.shape[1]))
        for fit, judge in folds:
            repeated = np.tile(own, len(strengths))
            w, b = logistic(z[fit], repeated[fit], np.repeat(strengths, own.shape[1]))
            judged = log_loss(z[judge] @ w + b, repeated[judge]).sum(0)
            loss += judged.reshape(loss.shape)
        weights[:, at], intercept[at] = logistic(z, own, strengths[_least(loss)])
    return Fitted(vectors.apply(weights) + intercept, weights)


def on_few(
    vectors: Vectors, task: Task, folds: list[tuple[Ints, Ints]], ks: list[int]
) -> Iterator[tuple[int, Floats]]:
    """For each k the scores of models of the k dimensions that tell each target best."""
    truth = task.train_truth[:, task.fitted]
    everything = np.arange(len(truth))
    parts = [fit for fit, _ in folds] + [everything]
    chosen = vectors.strongest(truth, parts, max(ks))
    scores = np.zeros((len(ks), len(task.test), truth.shape[1]))
    for target in range(truth.shape[1]):
        y = truth[:, target]
        loss = {k: np.zeros(len(_strengths(task, k))) for k in ks}
        for (fit, judge), of_part in zip(folds, chosen[:-1], strict=True):
            x, _ = vectors.columns(of_part[target])
            for k in ks:
                told = _told(task, x[fit, :k], y[fit], _strengths(task, k), x[judge, :k])
                loss[k] += _loss(task, told, y[judge, None]).sum(0)
        x, test = vectors.columns(chosen[-1][target])
        for number, k in enumerate(ks):
            best = _strengths(task, k)[_least(loss[k][:, None])]
            scores[number, :, target] = _told(task, x[:, :k], y, best, test[:, :k])[:, 0]
    yield from zip(ks, scores, strict=True)


def _least(loss: Floats) -> Ints:
    """Which value of C has the least loss; the middle one, where there were no folds."""
    found = loss.argmin(0)
    return found if loss.any() else np.full_like(found, len(loss) // 2)


def _strengths(task: Task, k: int) -> Floats:
    found: Floats = (OF_NUMBERS if task.kind == "number" else STRENGTHS) / k
    return found


def _told(task: Task, x: Floats, y: Floats, strengths: Floats, new: Floats) -> Floats:
    """What models of these rows, one for each C, say of new ones: [new, c]."""
    if task.kind == "number":
        weights, intercept = ridge(x, y, strengths)
        return new @ weights + intercept
    step = max(1, ELEMENTS_AT_ONCE // max(1, x.size))
    parts = [
        newton(x[None], y[None], strengths[first : first + step])[0]
        for first in range(0, len(strengths), step)
    ]
    theta = np.concatenate(parts)
    found: Floats = new @ theta[:, :-1].T + theta[:, -1]
    return found


def _loss(task: Task, told: Floats, truth: Floats) -> Floats:
    return (told - truth) ** 2 if task.kind == "number" else log_loss(told, truth)
