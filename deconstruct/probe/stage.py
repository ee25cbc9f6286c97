"""The stage probe: how well a linear probe reads labels off pooled latents, beside baselines.

Everything is chosen on train documents alone: the strength of regularisation (cross-validation),
the scaling, the vocabulary, the latents of a sparse probe. Test documents are touched once, to
score. Intervals resample test documents. What the numbers do not show: that latents are *better*
features (a probe on raw activations is the honest ceiling, and TF-IDF the honest floor), or that
the model uses what the probe finds. The SAE itself saw the train texts, not their labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe, Stage, keys_of
from deconstruct.artifacts.table import Table
from deconstruct.common.intervals import Bootstrap
from deconstruct.common.progress import track
from deconstruct.common.threads import one_quiet_thread
from deconstruct.config import ProbeConfig
from deconstruct.corpus.tables import DOCUMENT_LABELS
from deconstruct.latents.pooling import Documents, pooled_activations, pooled_latents
from deconstruct.probe.scores import Probe, Scores
from deconstruct.probe.tables import PROBE_WEIGHTS, TABLES, TASK

log = logging.getLogger(__name__)

VERSION = 4
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Values of sklearn's C that cross-validation chooses from."""
FOLDS = 3
DENSE_ELEMENTS = 1 << 28
"""Pooled latents of so many elements (1 GiB) are standardised; more are only scaled, as centring
would fill their zeros. Centring changes no optimum, but finds it in fewer steps."""
MIN_TRAIN = 2
"""Train documents that a class needs: fewer can't be cross-validated."""
ON_LATENTS = Probe("latents", None)
NO_CLASSES = "no column of labels holds classes (corpus.label_columns)"

Matrix = Any  # a scipy CSR matrix or a numpy array, [documents, features]


def recipe(
    config: ProbeConfig, *, corpus: Artifact, latents: Artifact, activations: Artifact
) -> Recipe:
    """All that decides the probes."""
    inputs = keys_of(corpus=corpus, latents=latents, activations=activations)
    return Recipe("probe", VERSION, config.key_fields(), inputs)


def fit_probes(
    root: DataRoot,
    config: ProbeConfig,
    *,
    corpus: Artifact,
    latents: Artifact,
    activations: Artifact,
) -> Artifact:
    """Fit and score the probes: ``probes``, ``probe_weights`` and ``probe_predictions``.

    Of a corpus with several columns of labels each one of classes is a task of its own, and the
    facts are those of the first; those of all are the fact ``tasks``. Labels of other kinds are not
    probed.

    With fewer than two classes there is nothing to probe: the files are empty and the fact
    ``skipped`` says why. A class with fewer than two train documents is left out, and named by
    the fact ``left_out``. `Scores.score` defines the metrics.
    """

    def write(draft: Draft) -> None:
        documents = Documents.read(corpus)
        pooled = Pooled(config.pooling, len(documents.text), latents, activations)
        several = "tasks" in corpus.facts
        found, facts = {}, {}
        for name, labels in class_columns(corpus, documents).items():
            of = replace(documents, label=labels)
            told = f" of column {name!r}" if several else ""
            found[name], facts[name] = _probed(config, of, pooled, told)
        if not facts:
            log.warning("no probes: %s", NO_CLASSES)
        draft.facts |= next(iter(facts.values()), {"skipped": NO_CLASSES})
        if several:
            draft.facts["tasks"] = facts
        for number, table in enumerate(TABLES):
            by_task = {name: tables[number] for name, tables in found.items()}
            rows = _with_task(table, by_task) if several else next(iter(by_task.values()))
            draft.write_table(table.file, rows)

    wanted = recipe(config, corpus=corpus, latents=latents, activations=activations)
    return root.make(wanted, write)


STAGE = Stage("probe", recipe, fit_probes)


def class_columns(corpus: Artifact, documents: Documents) -> dict[str, NDArray[Any]]:
    """Column -> the class of each document, None where it has none; the first column first."""
    if "tasks" not in corpus.facts:
        return {str(corpus.manifest.config.get("label_column")): documents.label}
    classes = [str(one["task"]) for one in corpus.facts["tasks"] if one["kind"] == "class"]
    columns = {name: np.full(len(documents.text), None, object) for name in classes}
    for rows in corpus.rows(DOCUMENT_LABELS.file, ["doc_id", "task", "value"]):
        for name, labels in columns.items():
            mine = rows.filter(pc.equal(rows["task"], name))
            labels[mine["doc_id"].to_numpy()] = np.array(mine["value"].to_pylist(), object)
    return columns


def _probed(
    config: ProbeConfig, documents: Documents, pooled: Pooled, told: str
) -> tuple[list[pa.Table], dict[str, Any]]:
    """Rows of `TABLES` and facts of one column of classes. told: which one, for messages."""
    task = Task.of(documents)
    facts: dict[str, Any] = {}
    if task.left_out:
        facts["left_out"] = task.left_out
        log.warning("too few train documents to probe%s: %s", told, ", ".join(task.left_out))
    if task.reason is not None:
        facts["skipped"] = task.reason
        log.warning("no probes%s: %s", told, task.reason)
        return [table.empty() for table in TABLES], facts
    probing = Probing(config, task)
    probing.run(documents, pooled)
    groups = documents.group[task.test]
    bootstrap = Bootstrap(len(task.test), config.bootstrap, config.seed, groups)
    found = [
        probing.scores.table(bootstrap, len(task.train)),
        probing.weights,
        probing.scores.predictions(),
    ]
    facts |= {"n_train": len(task.train), "n_test": len(task.test)}
    facts["classes"] = len(task.classes)
    facts["accuracy"] = probing.scores.accuracy(ON_LATENTS)
    return found, facts


def _with_task(table: Table, by_task: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of all tasks, with the column that tells them apart."""
    whole = table.with_optional()
    tables = [
        rows.add_column(0, whole.arrow.field(TASK.name), pa.repeat(name, len(rows)))
        for name, rows in by_task.items()
    ]
    return pa.concat_tables([whole.empty(), *tables])


@dataclass(frozen=True)
class Task:
    """Which documents are trained and tested on, and to tell which classes apart.

    train, test: doc_ids. label: [documents], indices into ``classes``, -1 for none of them.
    reason: why there is nothing to probe. left_out: classes with too few train documents.
    """

    classes: list[str]
    label: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: list[str]
    reason: str | None

    @classmethod
    def of(cls, documents: Documents) -> Task:
        """All documents with a label of at least `MIN_TRAIN` train documents."""
        in_train = documents.split == "train"
        names = sorted({label for label in documents.label if label is not None})
        number = {name: i for i, name in enumerate(names)}
        label = np.array([number.get(one, -1) for one in documents.label], np.int64)
        sizes = np.bincount(label[in_train & (label >= 0)], minlength=len(names))
        classes = [name for name, size in zip(names, sizes, strict=True) if size >= MIN_TRAIN]
        renumber = np.full(len(names) + 1, -1)
        renumber[[number[name] for name in classes]] = np.arange(len(classes))
        label = renumber[label]  # the last place is for documents without a label
        train = np.flatnonzero(in_train & (label >= 0))
        test = np.flatnonzero(~in_train & (label >= 0))
        reason = None
        if not names:
            reason = "the corpus has no labels (corpus.label_column)"
        elif len(classes) < 2:
            count = f"{len(classes)} class" + ("" if len(classes) == 1 else "es")
            reason = f"the train documents have {count} to learn, a probe needs two"
        elif len(test) == 0:
            reason = "no held-out document has a label that the train documents have"
        left_out = [name for name in names if name not in classes]
        return cls(classes, label, train, test, left_out, reason)


class Pooled:
    """Documents as vectors, by representation; made once, for however many columns of labels."""

    def __init__(
        self, pooling: str, documents: int, latents: Artifact, activations: Artifact
    ) -> None:
        self._pooling, self._documents = pooling, documents
        self._latents, self._activations = latents, activations

    @cached_property
    def latents(self) -> sparse.csr_matrix:
        """Float32 [documents, d_sae]."""
        return pooled_latents(self._latents, self._documents, self._pooling)

    @cached_property
    def activations(self) -> NDArray[np.float32]:
        """[documents, d_in]."""
        return pooled_activations(self._activations, self._documents, self._pooling)

    def split(self, representation: str, task: Task) -> tuple[Matrix, Matrix]:
        """Rows of train and of test documents; dense, where all of them are not too large."""
        matrix: Matrix = self.latents if representation == "latents" else self.activations
        train, test = matrix[task.train], matrix[task.test]
        if sparse.issparse(matrix) and np.prod(matrix.shape) <= DENSE_ELEMENTS:
            return train.toarray(), test.toarray()
        return train, test


class Probing:
    """Fits one probe after another. weights: of the one on all latents, `WEIGHTS`."""

    def __init__(self, config: ProbeConfig, task: Task) -> None:
        self.config, self.task = config, task
        self.truth = task.label[task.train]
        self.scores = Scores(task.classes, task.test, task.label[task.test])
        self.weights: pa.Table = PROBE_WEIGHTS.empty()

    def run(self, documents: Documents, pooled: Pooled) -> None:
        """The baselines, then the probes on all of latents and activations, and on k of them."""
        with track("probe", 2 + 2 * (1 + len(self.config.ks)), "probes") as advance:
            prior = np.bincount(self.truth) / len(self.truth)
            self.scores.add(Probe("majority", None), np.tile(prior, (len(self.task.test), 1)))
            advance()
            self.fit(Probe("tfidf", None), *self._words(documents))
            advance()
            for representation in ("latents", "activations"):
                train, test = pooled.split(representation, self.task)
                model = self.fit(Probe(representation, None), train, test)
                if representation == "latents":
                    self.weights = self._weigh(model)
                advance()
                for k in self.config.ks:
                    if k < train.shape[1]:
                        chosen = sparse_dimensions(train, self.truth, k)
                        self.fit(Probe(representation, k), train[:, chosen], test[:, chosen])
                    advance()
                del train, test  # before those of the next are made

    def _words(self, documents: Documents) -> tuple[Matrix, Matrix]:
        """TF-IDF of the words and pairs of words that two train documents have."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, dtype=np.float32)
        train, test = (
            [documents.text[d] for d in split] for split in (self.task.train, self.task.test)
        )
        try:
            return words.fit_transform(train), words.transform(test)
        except ValueError:  # there is no such word: all texts look alike
            return np.zeros((len(train), 1)), np.zeros((len(test), 1))

    def fit(self, probe: Probe, train: Matrix, test: Matrix) -> Any:
        """Choose C by cross-validation on train documents, fit, and judge the test documents."""
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        rarest = int(np.bincount(self.truth).min())
        folds = StratifiedKFold(min(FOLDS, rarest), shuffle=True, random_state=self.config.seed)
        with one_quiet_thread():
            accuracy = [
                cross_val_score(
                    _pipeline(probe, train, penalty), train, self.truth, cv=folds
                ).mean()
                for penalty in STRENGTHS
            ]
            model = _pipeline(probe, train, STRENGTHS[int(np.argmax(accuracy))])
            model.fit(train, self.truth)
            self.scores.add(probe, model.predict_proba(test))
        return model

    def _weigh(self, model: Any) -> pa.Table:
        """Weights of each class, those of the largest effect first.

        weight: per unit of a latent's pooled activation. effect: per standard deviation of it over
        the train documents; a latent that fires in two of them may have a huge weight and next to
        no effect. Latents that fire in no train document have neither.
        """
        scaler, classifier = model.steps[0][1], model.steps[-1][1]
        effects = classifier.coef_
        if len(effects) == 1:  # two classes: one row that speaks for the second
            effects = np.concatenate([-effects, effects])
        tables = []
        for name, row in zip(self.task.classes, effects, strict=True):
            order = np.argsort(-np.abs(row), kind="stable")
            order = order[row[order] != 0]
            columns = [
                pa.repeat(name, len(order)),
                pa.array(order, pa.uint32()),
                pa.array(row[order] / scaler.scale_[order]),
                pa.array(row[order]),
                pa.array(np.arange(1, len(order) + 1), pa.uint32()),
            ]
            tables.append(PROBE_WEIGHTS.of(*columns))
        return pa.concat_tables(tables)


def sparse_dimensions(train: Matrix, truth: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k dimensions that a sparse probe may read, ascending; chosen on train documents.

    Classes take turns, and each takes the dimension whose mean in it differs most from its mean
    in the rest, in standard deviations (as Gurnee et al. 2023, arXiv 2305.01610, rank neurons).
    train: [n, features]. truth: [n]. With k below the number of classes some go without.
    """
    mean = np.asarray(train.mean(0)).ravel()
    square = train.multiply(train) if sparse.issparse(train) else train**2
    spread = np.sqrt(np.maximum(np.asarray(square.mean(0)).ravel() - mean**2, 0))
    ranked = []
    for number in np.unique(truth):
        inside = np.asarray(train[truth == number].mean(0)).ravel()
        outside = np.asarray(train[truth != number].mean(0)).ravel()
        gap = np.divide(np.abs(inside - outside), spread, out=np.zeros_like(mean), where=spread > 0)
        ranked.append(np.argsort(-gap, kind="stable")[:k])
    in_turns = dict.fromkeys(np.stack(ranked, 1).ravel().tolist())
    return np.array(sorted(list(in_turns)[:k]))


def _pipeline(probe: Probe, train: Matrix, penalty: float) -> Any:
    """Scaling fitted on what it is given, then L2 logistic regression.

    Rows of TF-IDF have unit length already; scaling its columns would undo the IDF.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = LogisticRegression(C=penalty, max_iter=300, tol=1e-3)
    if probe.representation == "tfidf":
        return make_pipeline(classifier)
    return make_pipeline(StandardScaler(with_mean=not sparse.issparse(train)), classifier)
