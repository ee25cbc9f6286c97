"""Measures and their parts: the value of others' code, and intervals that hold the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm, spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from deconstruct.probe import measures
from deconstruct.probe.solvers import logistic, newton, ridge


def drawn(count: int, seed: int, coarse: bool = False) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    positive = draw.random(count) < 0.3
    score = draw.normal(size=count) + positive
    return np.round(score, 1) if coarse else score, positive


@pytest.mark.parametrize("coarse", [False, True])
def test_the_mean_of_the_parts_is_what_sklearn_says(coarse: bool) -> None:
    score, positive = drawn(300, 0, coarse)
    for own, theirs in (
        (measures.auroc, roc_auc_score),
        (measures.average_precision, average_precision_score),
    ):
        part = own(score, positive)
        assert part is not None
        assert part.mean() == pytest.approx(theirs(positive, score))
    truth = score + np.random.default_rng(1).normal(size=300)
    r2, rank = measures.r2(score, truth), measures.spearman(score, truth)
    assert r2 is not None
    assert rank is not None
    assert r2.mean() == pytest.approx(r2_score(truth, score))
    assert rank.mean() == pytest.approx(spearmanr(score, truth).statistic)


def test_nothing_to_tell_apart_has_no_measure() -> None:
    score = np.arange(5.0)
    assert measures.auroc(score, np.zeros(5, bool)) is None
    assert measures.balanced_accuracy(score > 2, np.ones(5, bool)) is None
    assert measures.average_precision(score, np.zeros(5, bool)) is None
    assert measures.r2(score, np.ones(5)) is None
    assert measures.spearman(np.ones(5), score) is None


def area(count: int, seed: int) -> tuple[np.ndarray | None, float]:
    return measures.auroc(*drawn(count, seed)), float(norm.cdf(1 / 2**0.5))


def precision(count: int, seed: int) -> tuple[np.ndarray | None, float]:
    return measures.average_precision(*drawn(count, seed)), TRUE_PRECISION


def balance(count: int, seed: int) -> tuple[np.ndarray | None, float]:
    score, positive = drawn(count, seed)
    return measures.balanced_accuracy(score > 0.5, positive), float(norm.cdf(0.5))


def rank(count: int, seed: int) -> tuple[np.ndarray | None, float]:
    draw = np.random.default_rng(seed)
    one = draw.normal(size=count)
    other = 0.6 * one + 0.8 * draw.normal(size=count)
    return measures.spearman(other, one), float(6 / np.pi * np.arcsin(0.3))


def told(count: int, seed: int) -> tuple[np.ndarray | None, float]:
    draw = np.random.default_rng(seed)
    one = draw.normal(size=count)
    return measures.r2(one, one + draw.normal(size=count)), 0.5


TRUE_PRECISION = float(average_precision_score(*drawn(1_000_000, 9)[::-1]))


@pytest.mark.parametrize("measure", [area, precision, balance, rank, told])
def test_intervals_of_parts_hold_the_truth(
    measure: Callable[[int, int], tuple[np.ndarray | None, float]],
) -> None:
    inside = 0
    for seed in range(400):
        part, true = measure(300, seed)
        assert part is not None
        inside += abs(part.mean() - true) <= 1.96 * part.std(ddof=1) / 300**0.5
    assert 0.92 * 400 <= inside <= 0.98 * 400


def test_solvers_agree_with_sklearn() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(150, 12))
    truth = (x[:, :2].sum(1) + draw.normal(size=150) > 0.5).astype(float)
    strengths = np.array([0.01, 1.0, 30.0])
    few = newton(x[None], truth[None], strengths)[0]
    weights, intercept = logistic(x, np.tile(truth[:, None], 3), strengths)
    for number, c in enumerate(strengths):
        theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, truth)
        np.testing.assert_allclose(few[number, :-1], theirs.coef_[0], atol=1e-4)
        np.testing.assert_allclose(few[number, -1], theirs.intercept_[0], atol=1e-4)
        np.testing.assert_allclose(weights[:, number], theirs.coef_[0], atol=0.02)
        np.testing.assert_allclose(intercept[number], theirs.intercept_[0], atol=0.02)
    number = x[:, 0] * 2 + draw.normal(size=150)
    for rows in (x, draw.normal(size=(150, 400))):
        found, level = ridge(rows, number, strengths)
        for place, c in enumerate(strengths):
            theirs = Ridge(alpha=1 / c).fit(rows, number)
            np.testing.assert_allclose(found[:, place], theirs.coef_, atol=1e-8)
            np.testing.assert_allclose(level[place], theirs.intercept_, atol=1e-8)


def test_a_label_that_no_row_has_is_as_rare_as_can_be() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    none = np.zeros(30)
    few = newton(x[None], none[None], np.array([1.0]))[0, 0]
    weights, intercept = logistic(x, none[:, None], np.array([1.0]))
    assert few.tolist() == [0, 0, pytest.approx(np.log(0.5 / 30.5))]
    assert (weights[:, 0].tolist(), intercept[0]) == ([0, 0], pytest.approx(few[-1]))
