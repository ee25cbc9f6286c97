"""What the latents of a run know of labels: which tell a label, and where its probe errs."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.places import Glance, glances
from deconstruct.store import QueryError

PUSHES = 5
"""Latents that are named of each error."""

_LABELS = """
SELECT y.value, count(*), count(*) FILTER (d.split = 'test')
FROM labels_of($run) AS y JOIN documents AS d ON d.run_id = $run AND d.doc_id = y.doc_id
WHERE y.value IS NOT NULL GROUP BY y.value ORDER BY count(*) DESC, y.value
"""
_READY = """
SELECT l.latent, f.top_token, l.cohen_d, l.ci_low, l.ci_high, l.auroc, l.mean_in, l.mean_out,
    l.documents_in, l.documents_out, w.effect, w.rank, m.token
FROM label_latents AS l
LEFT JOIN features AS f ON f.run_id = $run AND f.latent = l.latent
LEFT JOIN probe_weights AS w
    ON w.run_id = $run AND w.task = l.task AND w.label = l.label AND w.latent = l.latent
LEFT JOIN massive_latents AS m ON m.run_id = $run AND m.latent = l.latent
WHERE l.run_id = $run AND l.task = first_task($run) AND l.label = $label
ORDER BY l.rank LIMIT $most
"""
_SLOW = """
SELECT l.latent, l.top_token, l.cohen_d, l.ci_low, l.ci_high, l.auroc, l.mean_in, l.mean_out,
    l.documents_in, l.documents_out, l.effect, l.effect_rank, m.token
FROM (FROM latents_for_label($run, $label, against := $against) LIMIT $most) AS l
LEFT JOIN massive_latents AS m ON m.run_id = $run AND m.latent = l.latent
ORDER BY abs(l.cohen_d_train) DESC NULLS LAST, l.latent
"""
_CELLS = """
SELECT p.label, p.predicted, count(*) FROM probe_predictions AS p
WHERE p.run_id = $run AND p.representation = 'latents' AND p.k IS NULL
    AND p.task = first_task($run) AND p.label IS NOT NULL AND p.predicted IS NOT NULL
GROUP BY p.label, p.predicted
"""
_BY_MAX = "SELECT config ->> '$.probe.pooling' = 'max' FROM runs WHERE run_id = ?"
_WRONG = """
SELECT p.doc_id, p.label, p.predicted, p.probability FROM probe_predictions AS p
WHERE p.run_id = $run AND p.representation = 'latents' AND p.k IS NULL
    AND p.task = first_task($run) AND p.predicted <> p.label
    AND ($label IS NULL OR p.label = $label) AND ($predicted IS NULL OR p.predicted = $predicted)
ORDER BY p.probability DESC, p.doc_id
"""
_PUSHED = """
WITH wrong AS MATERIALIZED (
    SELECT unnest($documents) AS doc_id, unnest($labels) AS label, unnest($predicted) AS predicted
),
pooled AS MATERIALIZED (
    SELECT x.doc_id, x.latent, CASE WHEN $by_max THEN x.max ELSE x.mean END AS value
    FROM document_latents AS x
    WHERE x.run_id = $run AND x.doc_id IN (SELECT unnest($documents))
),
weight AS MATERIALIZED (
    SELECT w.label, w.latent, w.weight FROM probe_weights AS w
    WHERE w.run_id = $run AND w.task = first_task($run)
),
push AS (
    SELECT w.doc_id, x.latent, (yes.weight - no.weight) * x.value AS push
    FROM wrong AS w
    JOIN pooled AS x ON x.doc_id = w.doc_id
    JOIN weight AS yes ON yes.label = w.predicted AND yes.latent = x.latent
    JOIN weight AS no ON no.label = w.label AND no.latent = x.latent
    QUALIFY row_number() OVER (
        PARTITION BY w.doc_id ORDER BY (yes.weight - no.weight) * x.value DESC, x.latent
    ) <= $most
)
SELECT p.doc_id, p.latent, p.push, f.top_token
FROM push AS p LEFT JOIN features AS f ON f.run_id = $run AND f.latent = p.latent
ORDER BY p.doc_id, p.push DESC, p.latent
"""


class Label(NamedTuple):
    """A label, its documents, and how many of those are held out."""

    name: str
    documents: int
    held_out: int


class Telling(NamedTuple):
    """A latent that tells a label, as ``latents_for_label`` has it: chosen on train documents, all
    figures of held-out ones. effect, rank: in the probe. massive: the token of its massive
    activations, if it has such."""

    latent: int
    top_token: str | None
    cohen_d: float | None
    low: float | None
    high: float | None
    auroc: float | None
    mean_in: float
    mean_out: float
    documents_in: float | None
    documents_out: float | None
    effect: float | None
    rank: int | None
    massive: str | None


class Confusion(NamedTuple):
    """Held-out documents by label (rows) and by what the probe on all latents says (columns)."""

    labels: list[str]
    counts: list[list[int]]

    @property
    def wrong(self) -> int:
        return sum(n for i, row in enumerate(self.counts) for j, n in enumerate(row) if i != j)

    @property
    def total(self) -> int:
        return sum(map(sum, self.counts))


class Push(NamedTuple):
    """A latent that spoke for the wrong label: difference of both labels' weights, x activation."""

    latent: int
    push: float
    top_token: str | None


class Wrong(NamedTuple):
    """A held-out document that the probe gets wrong. probability: of what it says instead."""

    document: Glance
    label: str
    predicted: str
    probability: float
    pushed_by: list[Push]


def labels(store: duckdb.DuckDBPyConnection, run_id: str) -> list[Label]:
    """The most frequent first. Raises ``Missing`` if the run has none."""
    found = [Label(*row) for row in store.execute(_LABELS, {"run": run_id}).fetchall()]
    if not found:
        raise Missing(f"run {run_id} has no labels: its documents have none")
    return found


def telling(
    store: duckdb.DuckDBPyConnection,
    run_id: str,
    label: str,
    most: int = 20,
    slowly: bool = False,
    against: str | None = None,
) -> list[Telling]:
    """Latents that tell a label best, from all others or from the label ``against``. None stand
    ready against one label, or of runs without a map; slowly: compute them."""
    given = {"run": run_id, "label": label, "most": most}
    found = [] if against else store.execute(_READY, given).fetchall()
    if not found and slowly:
        found = store.execute(_SLOW, given | {"against": against}).fetchall()
    return [Telling(*row) for row in found]


def confusion(store: duckdb.DuckDBPyConnection, run_id: str) -> Confusion | None:
    """None of runs without a probe of classes."""
    cells = {
        (label, said): n for label, said, n in store.execute(_CELLS, {"run": run_id}).fetchall()
    }
    names = sorted({name for pair in cells for name in pair})
    if not names:
        return None
    return Confusion(names, [[cells.get((a, b), 0) for b in names] for a in names])


def errors(
    store: duckdb.DuckDBPyConnection,
    run_id: str,
    label: str | None = None,
    predicted: str | None = None,
    first: int = 0,
    most: int = 20,
) -> tuple[list[Wrong], int]:
    """Held-out documents that the probe on all latents gets wrong, the surest first; and how many
    there are. label, predicted: those of one cell of the confusion matrix alone."""
    given = {"run": run_id, "label": label, "predicted": predicted}
    every = store.execute(_WRONG, given).fetchall()
    rows = every[first : first + most]
    if not rows and first:
        raise QueryError(f"first = {first}: there are {len(every)} such documents")
    documents = [row[0] for row in rows]
    texts = {one.doc_id: one for one in glances(store, run_id, documents)}
    pushed: dict[int, list[Push]] = {}
    [(by_max,)] = store.execute(_BY_MAX, [run_id]).fetchall()
    asked = {
        "by_max": bool(by_max),
        "run": run_id, "documents": documents, "labels": [row[1] for row in rows],
        "predicted": [row[2] for row in rows], "most": PUSHES,
    }  # fmt: skip
    for doc_id, *push in store.execute(_PUSHED, asked).fetchall() if rows else ():
        pushed.setdefault(doc_id, []).append(Push(*push))
    found = [
        Wrong(texts[doc], one, said, sure, pushed.get(doc, []))
        for doc, one, said, sure in rows
        if doc in texts
    ]
    return found, len(every)
