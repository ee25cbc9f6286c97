"""Linear models with an L2 penalty, many at once: logistic by Newton or L-BFGS, and ridge.

All minimise sum of losses + |w|^2 / (2 C), the intercept free, in float64; sums are on one thread
where the caller sees to it. What is trained on rows of few columns goes by Newton's method, what is
trained on many by L-BFGS (Nocedal 1980), whose steps for all models share two matrix products.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import expit

Floats = NDArray[np.float64]

NEWTON_STEPS = 30
HISTORY = 8
STEPS = 150
TOLERANCE = 1e-4
"""Of the gradient of the mean loss, at the end of L-BFGS."""
HALVINGS = 20


def log_loss(score: Floats, truth: Floats) -> Floats:
    """Of log odds: log(1 + exp(score)) - truth * score, elementwise."""
    loss: Floats = np.logaddexp(0.0, score) - truth * score
    return loss


def newton(x: Floats, truth: Floats, strength: Floats) -> Floats:
    """Logistic models of few columns: [t, c, k + 1], the intercept last.

    x: [t, n, k], rows of each target. truth: [t, n], 0 or 1. strength: [c], values of C: a model of
    each for each target. A target without positives, or without negatives, gets what the prior
    says, one half added to each side.
    """
    count, rows, width = x.shape
    x = np.concatenate([x, np.ones((count, rows, 1))], 2)
    penalty = np.zeros((len(strength), width + 1))
    penalty[:, :-1] = 1 / strength[:, None]
    theta = np.zeros((count, len(strength), width + 1))
    positive = truth.sum(1)
    theta[..., -1] = _log_odds(positive, rows)[:, None]
    one_sided = (positive == 0) | (positive == rows)
    y = truth[:, None, :]
    score = theta @ x.transpose(0, 2, 1)
    loss = _objective(score, y, theta, penalty)
    for _ in range(NEWTON_STEPS):
        p = expit(score)
        gradient = (p - y) @ x + penalty * theta
        weight = (p * (1 - p))[..., None, :]
        hessian = (x.transpose(0, 2, 1)[:, None] * weight) @ x[:, None]
        hessian += penalty[:, None, :] * np.eye(width + 1) + 1e-10 * np.eye(width + 1)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step[one_sided] = 0
        decrement = (step * gradient).sum(-1)
        if (decrement <= 1e-6 * rows).all():
            break
        along = step @ x.transpose(0, 2, 1)
        size = _halved(score, -along, y, theta, -step, penalty, loss, decrement)
        theta -= size[..., None] * step
        score -= size[..., None] * along
        loss = _objective(score, y, theta, penalty)
    return theta


def _halved(
    score: Floats, along: Floats, y: Floats, theta: Floats, step: Floats, penalty: Floats,
    loss: Floats, slope: Floats,
) -> Floats:  # fmt: skip
    """The step of 1, 1/2, 1/4, ... of each model that lessens its objective; 0 if none does."""
    size = np.ones(loss.shape)
    for _ in range(HALVINGS):
        tried = _objective(
            score + size[..., None] * along, y, theta + size[..., None] * step, penalty
        )
        worse = tried > loss - 1e-4 * size * slope + 1e-12 * np.abs(loss)
        if not worse.any():
            return size
        size = np.where(worse, size / 2, size)
    return np.where(worse, 0.0, size)


def _objective(score: Floats, y: Floats, theta: Floats, penalty: Floats) -> Floats:
    total: Floats = log_loss(score, y).sum(-1) + (penalty * theta**2).sum(-1) / 2
    return total


def _log_odds(positive: Floats, rows: int) -> Floats:
    return np.log((positive + 0.5) / (rows - positive + 0.5))


def logistic(z: Floats, truth: Floats, strength: Floats) -> tuple[Floats, Floats]:
    """Logistic models of many columns: weights [r, m] and intercepts [m].

    z: [n, r]. truth: [n, m], 0 or 1. strength: [m], C of each.
    """
    rows, width = z.shape
    count = truth.shape[1]
    positive = truth.sum(0)
    one_sided = (positive == 0) | (positive == rows)
    theta = np.zeros((width + 1, count))
    theta[-1] = _log_odds(positive, rows)
    penalty = np.zeros((width + 1, count))
    penalty[:-1] = 1 / strength
    score = np.repeat(theta[-1:], rows, 0)
    gradient = _gradient(z, score, truth, theta, penalty)
    loss = _total(score, truth, theta, penalty)
    past: list[tuple[Floats, Floats, Floats]] = []
    for _ in range(STEPS):
        live = (np.abs(gradient).max(0) > TOLERANCE * rows) & ~one_sided
        if not live.any():
            break
        step = np.where(live, -_direction(gradient, past, rows), 0.0)
        slope = -(step * gradient).sum(0)
        along = z @ step[:-1] + step[-1]
        size = np.ones(count)
        for _ in range(HALVINGS):
            tried = _total(score + size * along, truth, theta + size * step, penalty)
            worse = live & (tried > loss - 1e-4 * size * slope + 1e-12 * np.abs(loss))
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        size = np.where(worse | ~live, 0.0, size)
        if not size.any():
            break
        theta = theta + size * step
        score = score + size * along
        loss = _total(score, truth, theta, penalty)
        before, gradient = gradient, _gradient(z, score, truth, theta, penalty)
        change, moved = gradient - before, size * step
        curvature = (change * moved).sum(0)
        with np.errstate(divide="ignore"):
            inverse = np.where(curvature > 1e-12, 1 / curvature, 0.0)
        past = [*past[-HISTORY + 1 :], (moved, change, inverse)]
    return theta[:-1], theta[-1]


def _direction(gradient: Floats, past: list[tuple[Floats, Floats, Floats]], rows: int) -> Floats:
    """The two loops of L-BFGS, for each column by itself."""
    q = gradient.copy()
    kept = []
    for moved, change, inverse in reversed(past):
        share = inverse * (moved * q).sum(0)
        q -= share * change
        kept.append(share)
    if past:
        moved, change, inverse = past[-1]
        squares = (change**2).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(inverse > 0, 1 / (inverse * squares), 1 / rows)
    else:
        scale = 4.0 / rows / np.maximum(1.0, np.abs(gradient).max(0) / rows)
    q *= scale
    for (moved, change, inverse), share in zip(past, reversed(kept), strict=True):
        q += moved * (share - inverse * (change * q).sum(0))
    return q


def _gradient(z: Floats, score: Floats, truth: Floats, theta: Floats, penalty: Floats) -> Floats:
    residual = expit(score) - truth
    return np.concatenate([z.T @ residual, residual.sum(0, keepdims=True)]) + penalty * theta


def _total(score: Floats, truth: Floats, theta: Floats, penalty: Floats) -> Floats:
    total: Floats = log_loss(score, truth).sum(0) + (penalty * theta**2).sum(0) / 2
    return total


def ridge(z: Floats, truth: Floats, strength: Floats) -> tuple[Floats, Floats]:
    """Least squares: weights [r, c] and intercepts [c], for each of the values of C [c].

    z: [n, r]. truth: [n].
    """
    rows, width = z.shape
    mean, level = z.mean(0), truth.mean()
    z, truth = z - mean, truth - level
    dual = width > rows
    square = z @ z.T if dual else z.T @ z
    right = truth if dual else z.T @ truth
    found = []
    for one in strength:
        solved = linalg.solve(square + np.eye(len(square)) / one, right, assume_a="pos")
        found.append(z.T @ solved if dual else solved)
    weights = np.stack(found, 1)
    return weights, level - mean @ weights
