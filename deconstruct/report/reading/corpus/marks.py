"""What marks some documents among all of a run: latents, labels, clusters, tokens.

All of it describes. Who chose the documents chose them by looking, mostly at a map of these very
latents, so that some latent tells them apart by construction: there is no test of significance
here, and none would mean anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import numpy as np

from deconstruct.probe.measures import auroc_where_fires
from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.ruled import TIMES, Ruled, ruled, usual_activation
from deconstruct.store import QueryError

CANDIDATES = 48
"""Latents of largest Cohen's d, whose area under the ROC curve is computed."""
NEAR = 0.1
"""Area under the ROC curve by which a latent may be behind the first, to be foremost with it."""
LOOKED_INTO = 10
"""Latents whose firings are read, to see whether one token rules them, at most."""
Z = 1.96

_LATENTS = """
SELECT x.latent, sum(x.mean::DOUBLE) AS s, sum(x.mean::DOUBLE * x.mean) AS q, count(*) AS n
FROM document_latents AS x WHERE x.run_id = $run {chosen} GROUP BY x.latent
"""
_TOKENS = """
SELECT t.token, count(*) AS n FROM (
    SELECT DISTINCT t.doc_id, t.token FROM tokens AS t
    WHERE t.run_id = $run AND NOT t.special {chosen}
) AS t GROUP BY t.token
"""
_CHOSEN = "AND doc_id IN (SELECT unnest($documents))"
_VALUES = """
SELECT x.latent, x.doc_id, x.mean, x.max FROM document_latents AS x
WHERE x.run_id = $run AND x.latent IN (SELECT unnest($latents))
"""
_LABELS = """
SELECT y.value, count(*) FILTER (y.doc_id IN (SELECT unnest($documents))), count(*)
FROM labels_of($run) AS y WHERE y.value IS NOT NULL GROUP BY y.value
"""
_CLUSTERS = """
SELECT c.cluster, count(*) FILTER (c.doc_id IN (SELECT unnest($documents))), count(*)
FROM clusters AS c WHERE c.run_id = $run GROUP BY c.cluster
"""
_TOP_TOKENS = """
SELECT f.latent, f.top_token FROM features AS f
WHERE f.run_id = $run AND f.latent IN (SELECT unnest($latents))
"""


class Share(NamedTuple):
    """How many documents of a kind are inside, and among the others. low, high: the 95% interval of
    the share inside (Wilson 1927)."""

    name: str
    n_inside: int
    n_outside: int
    inside: float
    outside: float
    low: float
    high: float


class Mark(NamedTuple):
    """A latent, in the documents chosen and in all others, by its mean activation in a document.

    cohen_d: difference of the means, over the root of the mean of both variances. auroc: how often
    a document inside has the larger one of a pair, equals counting half. documents: shares in
    which it fires at all. ruled: None where it was not looked into:
    of latents that fire nowhere in these documents as strongly as massive activations do.
    """

    latent: int
    top_token: str | None
    cohen_d: float
    auroc: float
    mean_inside: float
    mean_outside: float
    documents_inside: float
    documents_outside: float
    ruled: Ruled | None

    @property
    def artefact(self) -> bool:
        return self.ruled is not None and self.ruled.artefact


@dataclass(frozen=True)
class Marks:
    """What marks ``n`` documents of ``total``. latents: the best first; silent: those that fire
    less inside. tokens: of the texts as the model read them, the most telling first."""

    n: int
    total: int
    latents: list[Mark]
    silent: list[Mark]
    labels: list[Share]
    clusters: list[Share]
    tokens: list[Share]

    @property
    def foremost(self) -> list[Mark]:
        """The latents that mark about as well as the first, ten at most."""
        return [one for one in self.latents[:10] if one.auroc > self.latents[0].auroc - NEAR]

    @property
    def artefacts(self) -> list[Mark]:
        """The foremost that one massive token rules, if most are."""
        first = self.foremost
        found = [one for one in first if one.artefact]
        return found if 2 * len(found) > len(first) else []


@dataclass(frozen=True)
class Usual:
    """Sums over all documents of a run, which no choice of some changes: keep them."""

    total: int
    latents: np.ndarray
    """float64 [4, n]: latent, sum of means, of their squares, documents it fires in."""
    tokens: dict[str, int]
    """In how many documents each token stands."""


def usual(store: duckdb.DuckDBPyConnection, run_id: str) -> Usual:
    """Raises ``Missing`` if the run has no latents of documents."""
    [(total,)] = store.execute(
        "SELECT count(*) FROM documents WHERE run_id = ?", [run_id]
    ).fetchall()
    latents = _sums(store, {"run": run_id}, "")
    if not latents.shape[1]:
        raise Missing(f"run {run_id} has no latents of documents: nothing can mark them")
    tokens = store.execute(_TOKENS.format(chosen=""), {"run": run_id}).fetchall()
    return Usual(total, latents, dict(tokens))


def marks(
    store: duckdb.DuckDBPyConnection,
    run_id: str,
    chosen: Sequence[int],
    known: Usual | None = None,
    most: int = 40,
) -> Marks:
    """What marks the documents ``chosen`` (doc_ids) among all others.

    known: what `usual` returned before. Raises ``QueryError`` for documents that are not there, or
    if all or none are chosen.
    """
    known = known or usual(store, run_id)
    documents = np.unique(np.asarray(chosen, np.int64))
    n = len(documents)
    if not 0 < n < known.total:
        raise QueryError(
            f"{n} of {known.total} documents are chosen: choose some of them, and not all"
        )
    [(there,)] = store.execute(
        "SELECT count(*) FROM documents WHERE run_id = ? AND doc_id IN (SELECT unnest(?))",
        [run_id, documents],
    ).fetchall()
    if there < n:
        raise QueryError(f"run {run_id} has no document {documents[-1]}, or another of the chosen")
    given: dict[str, Any] = {"run": run_id, "documents": documents.astype(np.uint32)}
    best, least = _latents(store, given, known, most)
    clusters = store.execute(_CLUSTERS, given).fetchall()
    return Marks(
        n, known.total, best, least,
        _shares(store.execute(_LABELS, given).fetchall(), n, known.total),
        _shares([(str(c), inside, all_) for c, inside, all_ in clusters], n, known.total),
        _tokens(store, given, known),
    )  # fmt: skip


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95% interval of a share, ``hits`` of ``n`` (Wilson 1927)."""
    middle = (hits + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * math.sqrt(hits * (n - hits) / n + Z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _sums(store: duckdb.DuckDBPyConnection, given: dict[str, Any], chosen: str) -> np.ndarray:
    found = store.execute(_LATENTS.format(chosen=chosen), given).fetchnumpy()
    return np.stack([np.asarray(found[name], np.float64) for name in ("latent", "s", "q", "n")])


def _latents(
    store: duckdb.DuckDBPyConnection, given: dict[str, Any], known: Usual, most: int
) -> tuple[list[Mark], list[Mark]]:
    documents = np.asarray(given["documents"])
    n, total = len(documents), known.total
    whole = known.latents[:, np.argsort(known.latents[0])]
    inside = np.zeros_like(whole[1:])
    found = _sums(store, given, _CHOSEN)
    inside[:, np.searchsorted(whole[0], found[0])] = found[1:]
    outside = whole[1:] - inside
    mean_in, mean_out = inside[0] / n, outside[0] / (total - n)
    spread = inside[1] / n - mean_in**2 + outside[1] / (total - n) - mean_out**2
    d = (mean_in - mean_out) / np.sqrt(np.maximum(spread / 2, 1e-12))
    order = np.lexsort((whole[0], -np.abs(d)))[:CANDIDATES]
    area, strongest = _areas(store, given, whole[0, order].astype(np.int64), known)
    # Those that tell both apart equally well are told apart by how much they differ.
    ranked = sorted(
        zip(order, area, strongest, strict=True),
        key=lambda one: (-round(abs(one[1] - 0.5), 2), -abs(mean_in - mean_out)[one[0]], one[0]),
    )
    numbers = [int(whole[0, at]) for at, *_ in ranked]
    tops = dict(store.execute(_TOP_TOKENS, {"run": given["run"], "latents": numbers}).fetchall())
    edge = TIMES * usual_activation(store, given["run"])
    massive = [
        number
        for number, (at, _, top) in zip(numbers, ranked, strict=True)
        if d[at] > 0 and top > edge
    ]
    why = ruled(store, given["run"], {0: documents.tolist()}, {0: massive[:LOOKED_INTO]})
    made = [
        Mark(
            number, tops.get(number), float(d[at]), float(auroc),
            float(mean_in[at]), float(mean_out[at]),
            float(inside[2, at] / n), float(outside[2, at] / (total - n)),
            why.get((0, number)),
        )
        for number, (at, auroc, _) in zip(numbers, ranked, strict=True)
    ]  # fmt: skip
    rest = [one for one in made if one.cohen_d <= 0]
    return [one for one in made if one.cohen_d > 0][:most], rest[: most // 4]


def _areas(
    store: duckdb.DuckDBPyConnection, given: dict[str, Any], latents: np.ndarray, known: Usual
) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve of each latent, documents in which it is silent counting as 0; and
    its strongest activation in a chosen document in which it fires, their median."""
    documents, asked = np.asarray(given["documents"]), np.sort(latents)
    found = store.execute(_VALUES, {"run": given["run"], "latents": asked}).fetchnumpy()
    row = np.searchsorted(asked, found["latent"])
    areas, strongest = np.empty(len(asked)), np.zeros(len(asked))
    n, others = len(documents), known.total - len(documents)
    is_inside = np.isin(found["doc_id"], documents)
    for at in range(len(asked)):
        mine = row == at
        values, chosen = found["mean"][mine], is_inside[mine]
        if chosen.any():
            strongest[at] = np.median(found["max"][mine][chosen])
        areas[at] = auroc_where_fires(values, chosen, n, others)
    back = np.searchsorted(asked, latents)
    return areas[back], strongest[back]


def _shares(rows: list[tuple[str, int, int]], n: int, total: int) -> list[Share]:
    made = [
        Share(
            name, inside, all_ - inside, inside / n, (all_ - inside) / (total - n),
            *wilson(inside, n),
        )
        for name, inside, all_ in rows
    ]  # fmt: skip
    return sorted(made, key=lambda one: (-one.inside, one.name))


def _tokens(
    store: duckdb.DuckDBPyConnection, given: dict[str, Any], known: Usual, most: int = 24
) -> list[Share]:
    """Tokens that stand in more documents inside than among the others: log odds, over their
    standard error, half a document added to each count."""
    n, total = len(np.asarray(given["documents"])), known.total
    found = dict(store.execute(_TOKENS.format(chosen=_CHOSEN), given).fetchall())
    words, inside = list(found), np.array(list(found.values()), np.float64)
    outside = np.array([known.tokens[word] for word in words], np.float64) - inside
    odds = np.log((inside + 0.5) / (n - inside + 0.5))
    odds -= np.log((outside + 0.5) / (total - n - outside + 0.5))
    error = np.sqrt(
        1 / (inside + 0.5) + 1 / (n - inside + 0.5)
        + 1 / (outside + 0.5) + 1 / (total - n - outside + 0.5)
    )  # fmt: skip
    z = odds / error
    telling = sorted(np.flatnonzero(z > Z).tolist(), key=lambda at: (-z[at], words[at]))
    best = telling[:most]
    rows = [(words[at], int(inside[at]), int(inside[at] + outside[at])) for at in best]
    by_name = {one.name: one for one in _shares(rows, n, total)}
    return [by_name[name] for name, _, _ in rows]
