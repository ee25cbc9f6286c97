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

from deconstruct.report.reading.corpus.holdings import Bools, Holdings, Values, holdings
from deconstruct.report.reading.corpus.ruled import Ruled, ruled
from deconstruct.store import QueryError

CANDIDATES = 48
"""Latents of largest Cohen's d, whose area under the ROC curve is computed."""
NEAR = 0.1
"""Area under the ROC curve by which a latent may be behind the first, to be foremost with it."""
LOOKED_INTO = 10
"""Latents whose firings are read, to see whether one token rules them, at most."""
Z = 1.96

_MAXIMA = """
SELECT x.latent, x.max FROM document_latents AS x
WHERE x.run_id = $run AND x.latent IN (SELECT unnest($latents))
    AND x.doc_id IN (SELECT unnest($documents))
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


def marks(
    store: duckdb.DuckDBPyConnection,
    run_id: str,
    chosen: Sequence[int],
    known: Holdings | None = None,
    most: int = 40,
) -> Marks:
    """What marks the documents ``chosen`` (doc_ids) among all others.

    known: what `holdings` returned before. Raises ``QueryError`` for documents that are not there,
    or if all or none are chosen, and ``Missing`` if the run has no latents of documents.
    """
    known = known or holdings(store, run_id)
    documents = np.unique(np.asarray(chosen, np.int64))
    n = len(documents)
    if not 0 < n < known.total:
        raise QueryError(
            f"{n} of {known.total} documents are chosen: choose some of them, and not all"
        )
    if documents[0] < 0 or documents[-1] >= known.total:
        raise QueryError(f"run {run_id} has no document {documents[-1]}, or another of the chosen")
    inside = np.zeros(known.total, bool)
    inside[documents] = True
    given: dict[str, Any] = {"run": run_id, "documents": documents.astype(np.uint32)}
    best, least = _latents(store, given, inside, known, most)
    clusters = store.execute(_CLUSTERS, given).fetchall()
    return Marks(
        n, known.total, best, least,
        _shares(store.execute(_LABELS, given).fetchall(), n, known.total),
        _shares([(str(cluster), *counts) for cluster, *counts in clusters], n, known.total),
        _tokens(known.tokens_of(store, inside), n, known),
    )  # fmt: skip


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95% interval of a share, ``hits`` of ``n`` (Wilson 1927)."""
    middle = (hits + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * math.sqrt(hits * (n - hits) / n + Z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _latents(
    store: duckdb.DuckDBPyConnection,
    given: dict[str, Any],
    inside: Bools,
    known: Holdings,
    most: int,
) -> tuple[list[Mark], list[Mark]]:
    n, total = len(given["documents"]), known.total
    here, whole = known.sums_of(store, inside), known.sums
    mean_in = here.mean / n
    mean_out = (whole.mean - here.mean) / (total - n)
    spread = here.square / n - mean_in**2
    spread += (whole.square - here.square) / (total - n) - mean_out**2
    d = (mean_in - mean_out) / np.sqrt(np.maximum(spread / 2, 1e-12))
    firing = np.flatnonzero(whole.documents)
    candidates = firing[np.lexsort((firing, -np.abs(d[firing])))[:CANDIDATES]]
    values = known.values_of(store, candidates)
    area, differs = _areas(values, candidates, inside), np.abs(mean_in - mean_out)
    # Those that tell both apart equally well are told apart by how much they differ.
    ranked = sorted(
        candidates.tolist(),
        key=lambda one: (-round(abs(area[one] - 0.5), 2), -differs[one], one),
    )
    tops = dict(store.execute(_TOP_TOKENS, {"run": given["run"], "latents": ranked}).fetchall())
    strong = _strong(store, given, candidates, inside, values, known.edge)
    massive = [one for one in ranked if d[one] > 0 and one in strong]
    documents = given["documents"].tolist()
    why = ruled(store, given["run"], {0: documents}, {0: massive[:LOOKED_INTO]})
    made = [
        Mark(
            one, tops.get(one), float(d[one]), area[one],
            float(mean_in[one]), float(mean_out[one]), float(here.documents[one] / n),
            float((whole.documents - here.documents)[one] / (total - n)), why.get((0, one)),
        )
        for one in ranked
    ]  # fmt: skip
    rest = [one for one in made if one.cohen_d <= 0]
    return [one for one in made if one.cohen_d > 0][:most], rest[: most // 4]


def _areas(values: Values, latents: np.ndarray, inside: Bools) -> dict[int, float]:
    """Area under the ROC curve of each latent, documents in which it is silent counting as 0: as
    `auroc_where_fires`, of all at once."""
    n, within = int(inside.sum()), inside[values.document]
    # Numbers above 0 are in the order of their bits; so one sort serves all latents.
    bits = values.mean.astype(np.float32).view(np.uint32).astype(np.uint64)
    key = values.place.astype(np.uint64) << np.uint64(33) | bits << np.uint64(1)
    key = np.sort(key | within)
    first = np.flatnonzero(np.append(True, key[1:] >> 1 != key[:-1] >> 1)[: len(key)])
    ins = np.add.reduceat((key & 1).astype(np.float64), first)
    outs = np.diff(first, append=len(key)) - ins
    place = (key[first] >> np.uint64(33)).astype(np.int64)
    all_in, all_out = (np.bincount(place, part, len(latents)) for part in (ins, outs))
    before = np.cumsum(outs) - outs - (np.cumsum(all_out) - all_out)[place]
    silent_in, silent_out = n - all_in, len(inside) - n - all_out
    higher = np.bincount(place, ins * (silent_out[place] + before + outs / 2), len(latents))
    area = (higher + silent_in * silent_out / 2) / (n * (len(inside) - n))
    return dict(zip(latents.tolist(), area.tolist(), strict=True))


def _strong(
    store: duckdb.DuckDBPyConnection,
    given: dict[str, Any],
    latents: np.ndarray,
    inside: Bools,
    values: Values,
    edge: float,
) -> set[int]:
    """Latents that fire in the documents chosen as strongly as massive activations do: by the
    median of their maxima in those in which they fire."""
    within = inside[values.document]
    fires = np.bincount(values.place[within], minlength=len(latents))
    above = np.bincount(values.place[within & values.strong], minlength=len(latents))
    found = set(latents[2 * above > fires].tolist())
    even = latents[(2 * above == fires) & (fires > 0)].tolist()
    if even:  # between the two in the middle
        maxima = store.execute(_MAXIMA, given | {"latents": even}).fetchnumpy()
        found |= {
            one for one in even if np.median(maxima["max"][maxima["latent"] == one]) > edge
        }  # fmt: skip
    return found


def _shares(rows: list[tuple[str, int, int]], n: int, total: int) -> list[Share]:
    made = [
        Share(
            name, inside, all_ - inside, inside / n, (all_ - inside) / (total - n),
            *wilson(inside, n),
        )
        for name, inside, all_ in rows
    ]  # fmt: skip
    return sorted(made, key=lambda one: (-one.inside, one.name))


def _tokens(found: np.ndarray, n: int, known: Holdings, most: int = 24) -> list[Share]:
    """Tokens that stand in more documents inside than among the others: log odds, over their
    standard error, half a document added to each count. found: documents inside, by word."""
    total = known.total
    at = np.flatnonzero(found)
    inside, every = found[at].astype(np.float64), known.in_documents[at]
    outside = every - inside
    odds = np.log((inside + 0.5) / (n - inside + 0.5))
    odds -= np.log((outside + 0.5) / (total - n - outside + 0.5))
    error = np.sqrt(
        1 / (inside + 0.5) + 1 / (n - inside + 0.5)
        + 1 / (outside + 0.5) + 1 / (total - n - outside + 0.5)
    )  # fmt: skip
    z = odds / error
    words = {place: known.words[at[place]] for place in np.flatnonzero(z > Z).tolist()}
    best = sorted(words, key=lambda place: (-z[place], words[place]))[:most]
    rows = [(words[place], int(inside[place]), int(every[place])) for place in best]
    by_name = {one.name: one for one in _shares(rows, n, total)}
    return [by_name[name] for name, _, _ in rows]
