"""Scores of probes on the same held-out documents, with intervals that are paired.

Every measure is the mean of its `measures` parts, and intervals resample documents (groups of them,
where some hang together) by those. All measures of a task see the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deconstruct.common.intervals import Bootstrap, Estimate
from deconstruct.probe import measures
from deconstruct.probe.measures import Floats
from deconstruct.probe.representations import LATENTS, MAJORITY
from deconstruct.probe.tables import PROBE_SCORES, PROBES
from deconstruct.probe.task import Task

BOUNDED = ("accuracy", "macro_f1", "recall", "auroc", "balanced_accuracy", "average_precision",
           "micro_auroc", "micro_average_precision")  # fmt: skip
"""Measures that lie between 0 and 1."""


class Probe(NamedTuple):
    """Which probes: what they read, and on how many dimensions (None: all)."""

    representation: str
    k: int | None


class Score(NamedTuple):
    """One number about the probes of a task.

    target: whose probe it is about, None: all of them together. label: the label it is about. part:
    [n] of each held-out document.
    """

    probe: Probe
    target: str | None
    label: str | None
    metric: str
    part: Floats


class Scores:
    """Gathers what the probes of a task say of its held-out documents, then measures all of it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.told: dict[Probe, Floats] = {}
        self._found: list[Score] = []
        self._hits: dict[Probe, Floats] = {}

    def add(self, probe: Probe, score: Floats) -> None:
        """score: [n, targets], log odds of each; of numbers the number. The majority first: what
        scores above it is called positive in balanced accuracy, as the prior is no merit."""
        self.told[probe] = score
        if self.task.kind == "number":
            self._found += self._of_numbers(probe, score[:, 0])
            return
        self._found += self._of_labels(probe, score)
        if self.task.kind == "class":
            self._found += self._of_classes(probe, score)

    def _of_numbers(self, probe: Probe, told: Floats) -> Iterator[Score]:
        truth = self.task.test_truth[:, 0]
        for metric, measure in (("r2", measures.r2), ("spearman", measures.spearman)):
            part = measure(told, truth)
            if part is not None:
                yield Score(probe, None, None, metric, part)

    def _of_labels(self, probe: Probe, score: Floats) -> Iterator[Score]:
        """Of each label by its own probe, and their means; of lists of labels also of all pairs of
        a document and a label together."""
        positive = self.task.test_truth > 0
        prior = self.told[Probe(MAJORITY, None)]
        many = self.task.kind == "multilabel"
        found: dict[str, list[Floats]] = {}
        for column, name in enumerate(self.task.targets):
            told, own = score[:, column], positive[:, column]
            parts = {
                "auroc": measures.auroc(told, own),
                "balanced_accuracy": measures.balanced_accuracy(told > prior[:, column], own),
            }
            if many:
                parts["average_precision"] = measures.average_precision(told, own)
            for metric, part in parts.items():
                if part is not None:
                    found.setdefault(metric, []).append(part)
                    yield Score(probe, name, name, metric, part)
        for metric, of_labels in found.items():
            yield Score(probe, None, None, metric, np.mean(of_labels, axis=0))
        if many:
            flat = (score.ravel(), positive.ravel())
            for metric, pairs in (
                ("micro_auroc", measures.auroc(*flat)),
                ("micro_average_precision", measures.average_precision(*flat)),
            ):
                if pairs is not None:
                    yield Score(probe, None, None, metric, pairs.reshape(score.shape).mean(1))

    def _of_classes(self, probe: Probe, score: Floats) -> Iterator[Score]:
        """Of the class that is given: the one of the largest score."""
        truth = self.task.test_truth
        given = np.eye(truth.shape[1])[score.argmax(1)]
        hits = truth * given
        self._hits[probe] = hits.sum(1)
        yield Score(probe, None, None, "accuracy", self._hits[probe])
        there = (truth + given).any(0)
        f1 = measures.ratio(2 * hits[:, there], (truth + given)[:, there])
        yield Score(probe, None, None, "macro_f1", f1.mean(1))
        for column, name in enumerate(self.task.targets):
            if truth[:, column].any():
                part = measures.ratio(hits[:, column], truth[:, column])
                yield Score(probe, None, name, "recall", part)

    def _gaps(self) -> Iterator[Score]:
        """Accuracy on latents less that on others of as many dimensions."""
        for probe, own in self._hits.items():
            for other, hits in self._hits.items():
                if probe.representation == LATENTS != other.representation and probe.k == other.k:
                    metric = f"accuracy_minus_{other.representation}"
                    yield Score(probe, None, None, metric, own - hits)

    def accuracy(self, probe: Probe) -> float:
        """Share of documents that are given their class."""
        return float(self._hits[probe].mean())

    def table(self, resamples: int, seed: int) -> pa.Table:
        """``probes.parquet``: the scores, a row each."""
        found = [*self._found, *self._gaps()]
        groups = self.task.test_groups
        bootstrap = Bootstrap(int(groups.max()) + 1, resamples, seed)
        parts = np.zeros((bootstrap.documents, len(found)))
        for column, score in enumerate(found):
            parts[:, column] = np.bincount(groups, score.part)
        size = np.bincount(groups).astype(np.float64)[:, None]
        drawn = np.concatenate([counts @ parts / (counts @ size) for counts in bootstrap.counts()])
        rows = []
        for column, (probe, target, label, metric, part) in enumerate(found):
            estimate = _estimate(bootstrap, metric, part, drawn[:, column])
            rows.append({
                "target": target, "representation": probe.representation, "k": probe.k,
                "label": label, "metric": metric, "value": estimate.value,
                "ci_low": estimate.low, "ci_high": estimate.high,
                "n_train": len(self.task.train), "n_test": len(self.task.test), "seed": seed,
            })  # fmt: skip
        return PROBES.of_rows(rows)

    def scores(self) -> pa.Table:
        """``probe_scores.parquet``: what each probe says of each document."""
        count, targets = self.task.test_truth.shape
        names = pa.array(list(self.task.targets) * count, pa.string())
        tables = [
            PROBE_SCORES.of(
                pa.repeat(probe.representation, count * targets),
                pa.repeat(pa.scalar(probe.k, pa.uint32()), count * targets),
                names,
                np.repeat(self.task.test, targets),
                score.ravel(),
                self.task.test_truth.ravel(),
            )
            for probe, score in self.told.items()
        ]
        return pa.concat_tables([PROBE_SCORES.empty(), *tables])


def _estimate(bootstrap: Bootstrap, metric: str, part: Floats, drawn: Floats) -> Estimate:
    """The mean of the parts, with an interval; none of an area where no pair is out of order."""
    value = float(part.mean())
    if metric == "auroc" and value in (0.0, 1.0):
        return Estimate(value)
    found = bootstrap.estimate(value, drawn)
    if metric not in BOUNDED or found.low is None or found.high is None:
        return found
    return Estimate(value, max(0.0, found.low), min(1.0, found.high))


def prior(task: Task) -> Floats:
    """What the majority says of held-out documents: log odds of the labels, or the mean number."""
    share = task.train_truth.mean(0)
    said = share if task.kind == "number" else np.log(share / (1 - share))
    return np.tile(said, (len(task.test), 1))
