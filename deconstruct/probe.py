"""The stage probe: how well a linear probe reads labels off pooled latents, beside baselines.

Everything is chosen on train documents alone: the strength of regularisation (cross-validation),
the scaling, the vocabulary, the latents of a sparse probe. Test documents are touched once, to
score. Intervals resample test documents. What the numbers do not show: that latents are *better*
features (a probe on raw activations is the honest ceiling, and TF-IDF the honest floor), or that
the model uses what the probe finds. The SAE itself saw the train texts, not their labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from deconstruct.artifact import Artifact, ArtifactStore, Draft, Recipe
from deconstruct.bootstrap import interval, resample_counts
from deconstruct.config import ProbeConfig
from deconstruct.pooled import Documents, pooled_activations, pooled_latents
from deconstruct.progress import track

VERSION = 1
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Values of sklearn's C that cross-validation chooses from."""
FOLDS = 3

PROBES = pa.schema(
    {
        "representation": pa.string(),
        "k": pa.uint32(),
        "label": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "ci_low": pa.float64(),
        "ci_high": pa.float64(),
        "n_train": pa.uint32(),
        "n_test": pa.uint32(),
    }
)
WEIGHTS = pa.schema(
    {"label": pa.string(), "latent": pa.uint32(), "weight": pa.float64(), "rank": pa.uint32()}
)
PREDICTIONS = pa.schema(
    {
        "representation": pa.string(),
        "k": pa.uint32(),
        "doc_id": pa.uint32(),
        "label": pa.string(),
        "predicted": pa.string(),
        "probability": pa.float64(),
    }
)

Matrix = Any  # a scipy CSR matrix or a numpy array, [documents, features]


def recipe(
    config: ProbeConfig, corpus: Artifact, latents: Artifact, activations: Artifact
) -> Recipe:
    """All that decides the probes."""
    inputs = {"corpus": corpus.key, "latents": latents.key, "activations": activations.key}
    return Recipe("probe", VERSION, config.model_dump(mode="json"), inputs)


def probe(
    store: ArtifactStore,
    config: ProbeConfig,
    corpus: Artifact,
    latents: Artifact,
    activations: Artifact,
) -> Artifact:
    """Fit and score the probes: ``probes``, ``probe_weights`` and ``probe_predictions``.

    With fewer than two classes there is nothing to probe: the files are empty and the fact
    ``skipped`` says why.
    """

    def write(draft: Draft) -> None:
        documents = Documents.read(corpus)
        task = _Task.of(documents)
        if task.reason is not None:
            draft.facts["skipped"] = task.reason
        result = _Probing(config, task)
        if task.reason is None:
            result.run(documents, latents, activations)
            draft.facts.update(classes=len(task.classes), n_train=len(task.train))
            draft.facts["accuracy"] = result.accuracy("latents")
        tables = {
            "probes.parquet": pa.Table.from_pylist(result.rows, PROBES),
            "probe_weights.parquet": pa.Table.from_pylist(result.weights, WEIGHTS),
            "probe_predictions.parquet": pa.Table.from_pylist(result.predictions, PREDICTIONS),
        }
        for name, table in tables.items():
            with draft.writing(name) as path:
                pq.write_table(
                    table, path, compression="zstd", compression_level=1, write_page_checksum=True
                )
            draft.rows[name] = len(table)

    return store.make(recipe(config, corpus, latents, activations), write)


@dataclass(frozen=True)
class _Task:
    """Which documents are trained and tested on. reason: why there is nothing to probe."""

    classes: list[str]
    label: NDArray[Any]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    reason: str | None = None

    @classmethod
    def of(cls, documents: Documents) -> _Task:
        """Documents with a label; classes with fewer than two train documents are left out."""
        known = np.array([label is not None for label in documents.label], dtype=bool)
        train = np.flatnonzero(known & (documents.split == "train"))
        names, counts = np.unique(documents.label[train].astype(str), return_counts=True)
        classes = [str(n) for n, count in zip(names, counts, strict=True) if count >= 2]
        usable = np.array([label in classes for label in documents.label], dtype=bool)
        train = np.flatnonzero(usable & (documents.split == "train"))
        test = np.flatnonzero(usable & (documents.split == "test"))
        reason = None
        if not known.any():
            reason = "the corpus has no labels (corpus.label_column)"
        elif len(classes) < 2:
            reason = f"the train documents have {len(classes)} class, a probe needs two"
        elif len(test) == 0:
            reason = "no test document has a label that the train documents have"
        return cls(classes, documents.label, train, test, reason)

    @property
    def train_labels(self) -> NDArray[Any]:
        return self.label[self.train].astype(str)

    @property
    def test_labels(self) -> NDArray[Any]:
        return self.label[self.test].astype(str)


@dataclass
class _Probing:
    """Fits probes one after another and gathers their rows."""

    config: ProbeConfig
    task: _Task
    rows: list[dict[str, Any]] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    correct: dict[tuple[str, int | None], NDArray[np.float64]] = field(default_factory=dict)

    def run(self, documents: Documents, latents: Artifact, activations: Artifact) -> None:
        count = len(documents.text)
        by_latent = pooled_latents(latents, count, self.config.pooling)
        by_dimension = pooled_activations(activations, count, self.config.pooling)
        with track("probe", 4 + 2 * len(self.config.ks), "probes") as advance:
            self._majority()
            advance()
            self._text(documents)
            advance()
            for representation, matrix in (("latents", by_latent), ("activations", by_dimension)):
                self._fit(representation, matrix, None)
                advance()
                for k in self.config.ks:
                    self._sparse(representation, matrix, k)
                    advance()
        for other in ("activations", "tfidf", "majority"):
            gap = self.correct["latents", None] - self.correct[other, None]
            self._row("latents", None, None, f"accuracy_minus_{other}", *self._mean(gap))

    def accuracy(self, representation: str) -> float:
        """Held-out accuracy of the probe on all dimensions."""
        return float(self.correct[representation, None].mean())

    def _majority(self) -> None:
        names, counts = np.unique(self.task.train_labels, return_counts=True)
        chance = (counts / counts.sum())[None].repeat(len(self.task.test), 0)
        self._score("majority", None, names, chance)

    def _text(self, documents: Documents) -> None:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, dtype=np.float32)
        train = [documents.text[d] for d in self.task.train]
        try:
            fitted = words.fit_transform(train)
        except ValueError:  # no word occurs twice: as good as no text
            fitted = sparse.csr_matrix((len(train), 1), dtype=np.float32)
            self._fit_split("tfidf", None, fitted, sparse.csr_matrix((len(self.task.test), 1)))
            return
        test = words.transform([documents.text[d] for d in self.task.test])
        self._fit_split("tfidf", None, fitted, test)

    def _sparse(self, representation: str, matrix: Matrix, k: int) -> None:
        """A probe on k dimensions: for each class in turn those whose means differ most.

        Standardised difference of means between a class and the rest, on train documents; taking
        classes in turns, no class is left without its own.
        """
        if k >= matrix.shape[1]:
            return
        train = matrix[self.task.train]
        labels = self.task.train_labels
        square = train.multiply(train) if sparse.issparse(train) else train**2
        mean = np.asarray(train.mean(0)).ravel()
        spread = np.sqrt(np.maximum(np.asarray(square.mean(0)).ravel() - mean**2, 0)) + 1e-9
        ranked = []
        for name in self.task.classes:
            inside = np.asarray(train[labels == name].mean(0)).ravel()
            outside = np.asarray(train[labels != name].mean(0)).ravel()
            ranked.append(np.argsort(-np.abs(inside - outside) / spread, kind="stable"))
        chosen: list[int] = []
        for candidate in np.stack(ranked, 1).ravel():
            if len(chosen) == k:
                break
            if candidate not in chosen:
                chosen.append(int(candidate))
        self._fit(representation, matrix[:, sorted(chosen)], k)

    def _fit(self, representation: str, matrix: Matrix, k: int | None) -> None:
        self._fit_split(representation, k, matrix[self.task.train], matrix[self.task.test])

    def _fit_split(self, representation: str, k: int | None, train: Matrix, test: Matrix) -> None:
        """Choose C by cross-validation on train documents, fit, and score the test documents."""
        labels = self.task.train_labels
        best = max(self._penalties(train, labels), key=lambda scored: scored[1])[0]
        model = _pipeline(train, best)
        with _quiet():
            model.fit(train, labels)
        self._score(representation, k, model.classes_, model.predict_proba(test))
        if representation == "latents" and k is None:
            self._weigh(model)

    def _penalties(self, train: Matrix, labels: NDArray[Any]) -> Iterator[tuple[float, float]]:
        rarest = int(np.unique(labels, return_counts=True)[1].min())
        if rarest < FOLDS:
            yield 1.0, 0.0
            return
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=self.config.seed)
        for penalty in PENALTIES:
            with _quiet():
                scores = cross_val_score(_pipeline(train, penalty), train, labels, cv=folds)
            yield penalty, float(scores.mean())

    def _weigh(self, model: Any) -> None:
        """Weights on latents in units of their own activations: the scaling is undone."""
        scaler, classifier = model.steps[0][1], model.steps[-1][1]
        weights = classifier.coef_ / scaler.scale_
        names = model.classes_
        if len(names) == 2:  # one row that speaks for the second class
            weights = np.concatenate([-weights, weights])
        for name, row in zip(names, weights, strict=True):
            order = np.argsort(-np.abs(row), kind="stable")
            order = order[row[order] != 0]
            self.weights.extend(
                {"label": str(name), "latent": int(j), "weight": float(row[j]), "rank": rank}
                for rank, j in enumerate(order, 1)
            )

    def _score(
        self, representation: str, k: int | None, names: NDArray[Any], chance: NDArray[Any]
    ) -> None:
        truth = self.task.test_labels
        best = chance.argmax(1)
        predicted = names[best].astype(str)
        correct = (predicted == truth).astype(np.float64)
        self.correct[representation, k] = correct
        self._row(representation, k, None, "accuracy", *self._mean(correct))
        f1 = f1_score(truth, predicted, average="macro", zero_division=0)
        self._row(representation, k, None, "macro_f1", float(f1), None, None)
        for column, name in enumerate(names):
            mine = truth == name
            if mine.any() and not mine.all():
                area = float(roc_auc_score(mine, chance[:, column]))
                self._row(representation, k, str(name), "auroc", area, None, None)
                recall = correct[mine]
                self._row(representation, k, str(name), "recall", *self._mean(recall))
        for place, document in enumerate(self.task.test):
            self.predictions.append(
                {
                    "representation": representation,
                    "k": k,
                    "doc_id": int(document),
                    "label": str(truth[place]),
                    "predicted": str(predicted[place]),
                    "probability": float(chance[place, best[place]]),
                }
            )

    def _mean(self, values: NDArray[np.float64]) -> tuple[float, float, float]:
        counts = resample_counts(len(values), self.config.bootstrap, self.config.seed)
        sums = {"total": values, "n": np.ones(len(values))}
        return interval(sums, lambda s: s["total"] / s["n"], counts)

    def _row(
        self,
        representation: str,
        k: int | None,
        label: str | None,
        metric: str,
        value: float,
        low: float | None,
        high: float | None,
    ) -> None:
        self.rows.append(
            {
                "representation": representation,
                "k": k,
                "label": label,
                "metric": metric,
                "value": value,
                "ci_low": low,
                "ci_high": high,
                "n_train": len(self.task.train),
                "n_test": len(self.task.test),
            }
        )


def _pipeline(train: Matrix, penalty: float) -> Any:
    """Scaling fitted on what it is given, then L2 logistic regression.

    Sparse features are scaled by their largest value, which keeps zeros; dense ones are
    standardised.
    """
    scaler = MaxAbsScaler() if sparse.issparse(train) else StandardScaler()
    return make_pipeline(scaler, LogisticRegression(C=penalty, max_iter=300, tol=1e-3))


@contextmanager
def _quiet() -> Iterator[None]:
    """L-BFGS that stops at its limit is as good a probe; sklearn's warning helps nobody here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
