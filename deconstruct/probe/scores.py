"""Scores of classifiers on the same held-out documents, with intervals that are paired."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.common.intervals import LEVEL, Bootstrap, Estimate
from deconstruct.probe.tables import PROBE_PREDICTIONS, PROBES


class Probe(NamedTuple):
    """Which classifier: what it reads, and on how many dimensions (None: all)."""

    representation: str
    k: int | None


class Score(NamedTuple):
    """One number about a probe. label: the class it is about, None: all classes."""

    probe: Probe
    label: str | None
    metric: str
    found: Estimate


class Scores:
    """Gathers what classifiers say about documents, then scores them all in one go.

    doc_id: [n]. truth: [n], indices into ``classes``.
    """

    def __init__(
        self, classes: list[str], doc_id: NDArray[np.int64], truth: NDArray[np.int64]
    ) -> None:
        self.classes, self.doc_id, self.truth = classes, doc_id, truth
        self.predicted: dict[Probe, NDArray[np.int64]] = {}
        self.probability: dict[Probe, NDArray[np.float64]] = {}
        self._areas: list[Score] = []

    def add(self, probe: Probe, probability: NDArray[np.float64]) -> None:
        """probability: [n, classes]; the largest is the prediction."""
        best = probability.argmax(1)
        self.predicted[probe] = best
        self.probability[probe] = probability[np.arange(len(best)), best]
        for column, name in enumerate(self.classes):
            found = auroc(probability[:, column], self.truth == column)
            if found is not None:
                self._areas.append(Score(probe, name, "auroc", found))

    def accuracy(self, probe: Probe) -> float:
        """Share of documents that it gives their class."""
        return float((self.predicted[probe] == self.truth).mean())

    def score(self, bootstrap: Bootstrap) -> Iterator[Score]:
        """Accuracy and macro F1, recall and AUROC of each class, and gaps in accuracy.

        ``accuracy_minus_X`` is a probe on latents less the one on X of as many dimensions, on the
        same resamples. Macro F1 is the mean over the classes of 2 hits / (predicted + true).
        """
        probes = list(self.predicted)
        n, count = len(self.truth), len(self.classes)
        true = _one_hot(self.truth, count)
        predicted = {p: _one_hot(self.predicted[p], count) for p in probes}
        hits = {p: sparse.csr_matrix(true.multiply(predicted[p])) for p in probes}
        everything = np.ones((1, n))
        drawn: dict[Probe, list[NDArray[np.float64]]] = {p: [] for p in probes}
        whole = {p: _measures(everything, true, predicted[p], hits[p])[0] for p in probes}
        for counts in bootstrap.counts():
            for p in probes:
                drawn[p].append(_measures(counts, true, predicted[p], hits[p]))
        totals = {p: np.concatenate(parts) for p, parts in drawn.items()}
        labels: list[str | None] = [None, None, *self.classes]
        metrics = ["accuracy", "macro_f1", *["recall"] * count]
        for p in probes:
            for column, (label, metric) in enumerate(zip(labels, metrics, strict=True)):
                if np.isfinite(whole[p][column]):
                    found = bootstrap.estimate(whole[p][column], totals[p][:, column])
                    yield Score(p, label, metric, found)
        yield from self._areas
        for p in probes:
            for other in probes:
                pair = p.representation == "latents" != other.representation and p.k == other.k
                if pair:
                    gap = bootstrap.estimate(
                        whole[p][0] - whole[other][0], totals[p][:, 0] - totals[other][:, 0]
                    )
                    yield Score(p, None, f"accuracy_minus_{other.representation}", gap)

    def table(self, bootstrap: Bootstrap, n_train: int) -> pa.Table:
        """``probes.parquet``: the scores, a row each."""
        rows = [
            {
                "representation": probe.representation,
                "k": probe.k,
                "label": label,
                "metric": metric,
                "value": found.value,
                "ci_low": found.low,
                "ci_high": found.high,
                "n_train": n_train,
                "n_test": len(self.truth),
            }
            for probe, label, metric, found in self.score(bootstrap)
        ]
        return PROBES.of_rows(rows)

    def predictions(self) -> pa.Table:
        """``probe_predictions.parquet``: what each classifier says about each document."""
        names = pa.array(self.classes)
        n = len(self.truth)
        tables = [
            PROBE_PREDICTIONS.of(
                pa.repeat(p.representation, n),
                pa.repeat(pa.scalar(p.k, pa.uint32()), n),
                self.doc_id,
                names.take(pa.array(self.truth)),
                names.take(pa.array(predicted)),
                self.probability[p],
            )
            for p, predicted in self.predicted.items()
        ]
        return pa.concat_tables([PROBE_PREDICTIONS.empty(), *tables])


def auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> Estimate | None:
    """Area under the ROC curve, ties counted half, with DeLong's 95% interval (1988).

    None if there are no positives or no negatives; no interval with one of either, or where the
    classes are told apart without a fault.
    """
    from scipy.stats import norm, rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return None
    rank = rankdata(score)
    # For each positive the share of negatives below it, and the other way round.
    above = (rank[positive] - rankdata(score[positive])) / n
    below = 1 - (rank[~positive] - rankdata(score[~positive])) / m
    area = float(above.mean())
    if m == 1 or n == 1 or area in (0.0, 1.0):
        return Estimate(area)
    spread = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    half = float(norm.ppf((1 + LEVEL) / 2)) * spread
    return Estimate(area, max(0.0, area - half), min(1.0, area + half))


def _measures(counts: NDArray[np.float64], true: Any, predicted: Any, hits: Any) -> Any:
    """Accuracy, macro F1 and each class's recall, of resamples: [resamples, 2 + classes].

    A class that a resample does not hold has recall NaN, and no part in its F1 unless predicted.
    """
    n_true, n_predicted, n_hits = ((m.T @ counts.T).T for m in (true, predicted, hits))
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * n_hits / (n_true + n_predicted)
        recall = n_hits / n_true
    accuracy = n_hits.sum(1) / n_true.sum(1)
    return np.column_stack([accuracy, np.nanmean(f1, axis=1), recall])


def _one_hot(index: NDArray[np.int64], count: int) -> Any:
    n = len(index)
    return sparse.csr_matrix((np.ones(n), (np.arange(n), index)), shape=(n, count))
