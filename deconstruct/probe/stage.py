"""The stage probe: how well linear probes read labels off pooled latents, beside baselines.

Each label is told from all others by a probe of its own, so that no score depends on what labels
are called; the class of a document is the one of the largest score. Everything is chosen on train
documents alone: scaling, vocabulary, principal axes; and within their folds the strength of
regularisation and the dimensions of a sparse probe. Test documents are touched once, to score.
Intervals resample test documents. What the numbers do not show: that latents are *better* features
(raw activations are the honest ceiling; token embeddings, TF-IDF and lengths the honest floors), or
that the model uses what the probe finds. The SAE itself saw the train texts, not their labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.artifacts.table import Table
from deconstruct.common.progress import track
from deconstruct.common.threads import one_quiet_thread
from deconstruct.config import ProbeConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.probe.curve import curve
from deconstruct.probe.fitting import on_all, on_few
from deconstruct.probe.representations import LATENTS, MAJORITY, Representations
from deconstruct.probe.scores import Probe, Scores, prior
from deconstruct.probe.tables import (
    PROBE_CURVE,
    PROBE_SCORES,
    PROBE_WEIGHTS,
    PROBES,
    TABLES,
    TASK,
)
from deconstruct.probe.task import Sample, Task, tasks_of
from deconstruct.probe.tokens import token_rows
from deconstruct.probe.vectors import Floats, Vectors

log = logging.getLogger(__name__)

VERSION = 5
ON_LATENTS = Probe(LATENTS, None)
NO_LABELS = "the corpus has no columns of labels (corpus.label_columns)"


def recipe(
    config: ProbeConfig,
    *,
    corpus: Artifact,
    latents: Artifact,
    activations: Artifact,
    model: ResolvedModel | None = None,
) -> Recipe:
    """All that decides the probes."""
    inputs = keys_of(corpus=corpus, latents=latents, activations=activations)
    if model is not None:
        inputs = {"model": model.digest} | inputs
    return Recipe("probe", VERSION, config.key_fields(), inputs)


def fit_probes(
    root: DataRoot,
    config: ProbeConfig,
    *,
    corpus: Artifact,
    latents: Artifact,
    activations: Artifact,
    model: ResolvedModel | None = None,
) -> Artifact:
    """Fit and score the probes: ``probes``, ``probe_weights``, ``probe_scores``, ``probe_curve``.

    model: whose token embeddings are one of the representations; without it they are left out. Each
    column of labels is a task of its own, those of classes first; so is each of
    ``config.token_tasks``, of which there are rows of ``probes`` alone. The facts are those of the
    first task; of a corpus with several columns those of all are the fact ``tasks``.

    Where there is nothing to probe the files are empty, and the fact ``skipped`` says why. A label
    with fewer than two train documents is left out, and named by the fact ``left_out``.
    `deconstruct.probe.measures` and `Scores` define the metrics.
    """

    @one_quiet_thread()
    def write(draft: Draft) -> None:
        sample = Sample.of(corpus, config.max_documents)
        vectors = Representations(config, sample, corpus, latents, activations, model)
        several = "tasks" in corpus.facts or bool(config.token_tasks)
        found, facts = {}, {}
        for name, task in tasks_of(corpus, sample).items():
            told = f" of column {name!r}" if "tasks" in corpus.facts else ""
            dealt = task.dealt(config.seed) if config.shuffle_labels else task
            found[name], facts[name] = _probed(config, dealt, vectors, told)
        if not facts:
            log.warning("no probes: %s", NO_LABELS)
        draft.facts |= next(iter(facts.values()), {"skipped": NO_LABELS})
        if "tasks" in corpus.facts:
            draft.facts["tasks"] = facts
        of_tokens = []
        if config.token_tasks:
            of_tokens = token_rows(config, sample, corpus, latents, activations)
        for table in TABLES:
            by_task = {name: tables[table] for name, tables in found.items()}
            rows = _with_task(table, by_task) if several else next(iter(by_task.values()))
            if table is PROBES and of_tokens:
                rows = pa.concat_tables([rows, table.with_optional().of_rows(of_tokens)])
            draft.write_table(table.file, rows)

    wanted = recipe(config, corpus=corpus, latents=latents, activations=activations, model=model)
    return root.make(wanted, write)


STAGE = Stage("probe", recipe, fit_probes)


def _probed(
    config: ProbeConfig, task: Task, vectors: Representations, told: str
) -> tuple[dict[Table, pa.Table], dict[str, Any]]:
    """Rows of `TABLES` and facts of one column of labels. told: which one, for messages."""
    facts: dict[str, Any] = {}
    if task.left_out:
        facts["left_out"] = task.left_out
        log.warning(
            "not probed%s, for want of train documents or as others are more frequent: %s",
            told,
            ", ".join(task.left_out),
        )
    if task.reason is not None:
        facts["skipped"] = task.reason
        log.warning("no probes%s: %s", told, task.reason)
        return {table: table.empty() for table in TABLES}, facts
    probing = Probing(config, task)
    probing.run(vectors)
    facts |= {"n_train": len(task.train), "n_test": len(task.test)}
    if task.kind == "class":
        facts["classes"] = len(task.targets)
        facts["accuracy"] = probing.scores.accuracy(ON_LATENTS)
    return probing.tables(), facts


def _with_task(table: Table, by_task: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of all tasks, with the column that tells them apart."""
    whole = table.with_optional()
    tables = [
        rows.add_column(0, whole.arrow.field(TASK.name), pa.repeat(name, len(rows)))
        for name, rows in by_task.items()
    ]
    return pa.concat_tables([whole.empty(), *tables])


@dataclass
class Probing:
    """Fits the probes of a task, one representation after another."""

    config: ProbeConfig
    task: Task
    weights: pa.Table = field(default_factory=PROBE_WEIGHTS.empty)
    points: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scores = Scores(self.task)
        self._folds = self.task.folds(self.config.seed)

    def run(self, representations: Representations) -> None:
        """The majority, then the probes on all of each representation, and on k of it."""
        self.scores.add(Probe(MAJORITY, None), prior(self.task))
        names = representations.names
        with track("probe", len(names), "representations") as advance:
            for name in names:
                self.fit(name, representations.of(name, self.task))
                advance()

    def fit(self, name: str, vectors: Vectors) -> None:
        """The probes on one representation, and its label efficiency."""
        task, folds = self.task, self._folds
        whole = on_all(vectors, task, folds)
        self.scores.add(Probe(name, None), task.spread(whole.scores))
        if name == LATENTS and task.kind != "number":
            self.weights = _weigh(task, vectors, whole.weights)
        if ks := [k for k in self.config.ks if k < vectors.dimensions]:
            for k, told in on_few(vectors, task, folds, ks):
                self.scores.add(Probe(name, k), task.spread(told))
        if task.kind == "class":
            found = (point._asdict() for point in curve(vectors, task, self.config.seed))
            self.points += [{"representation": name, **point} for point in found]

    def tables(self) -> dict[Table, pa.Table]:
        """Rows of the stage's tables."""
        return {
            PROBES: self.scores.table(self.config.bootstrap, self.config.seed),
            PROBE_WEIGHTS: self.weights,
            PROBE_SCORES: self.scores.scores(),
            PROBE_CURVE: PROBE_CURVE.of_rows(self.points),
        }


def _weigh(task: Task, vectors: Vectors, weights: Floats) -> pa.Table:
    """Weights of each label, those of the largest effect first.

    weight: per unit of a latent's pooled activation. effect: per standard deviation of it over the
    train documents; a latent that fires in two of them may have a huge weight and next to no
    effect. Latents that fire in no train document have neither.
    """
    effects = task.spread(np.concatenate(list(vectors.weights(weights)))).T
    tables = []
    effects = np.where(vectors.inverse > 0, effects, 0.0)
    for name, row in zip(task.targets, effects, strict=True):
        order = np.argsort(-np.abs(row), kind="stable")
        order = order[row[order] != 0]
        columns = [
            pa.repeat(name, len(order)),
            pa.array(order, pa.uint32()),
            pa.array(row[order] * vectors.inverse[order]),
            pa.array(row[order]),
            pa.array(np.arange(1, len(order) + 1), pa.uint32()),
        ]
        tables.append(PROBE_WEIGHTS.of(*columns))
    return pa.concat_tables(tables)
