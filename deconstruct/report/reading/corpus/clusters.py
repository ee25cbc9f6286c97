"""The clusters of a run's documents: what sets each apart, which documents are typical of it and
which odd, how stable it is, and whether one token is what it is made of."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.places import Glance, glances

STABLE, NAMED = 0.75, 0.6
"""Jaccard similarities (Hennig 2007): above the first a cluster is stable, below the second better
not named."""
SHOWN = 3
LATENTS = 8

_CLUSTERS = """
SELECT s.cluster, s.size, s.top_label, s.top_label_share, s.keywords[:8], s.latents[:$latents],
    s.exemplars[:3 * $shown], s.jaccard, x.support
FROM cluster_summary AS s
LEFT JOIN (
    SELECT c.cluster, avg(c.support) AS support FROM clusters AS c
    WHERE c.run_id = $run GROUP BY c.cluster
) AS x ON x.cluster = s.cluster
WHERE s.run_id = $run ORDER BY s.size DESC, s.cluster
"""
_ODD = """
SELECT c.cluster, list(c.doc_id ORDER BY c.place) FROM (
    SELECT c.cluster, c.doc_id, row_number() OVER (
        PARTITION BY c.cluster
        ORDER BY coalesce(d.label = s.top_label, true), c.support NULLS LAST, c.distance DESC,
            c.doc_id
    ) AS place
    FROM clusters AS c
    JOIN cluster_summary AS s ON s.run_id = $run AND s.cluster = c.cluster
    JOIN documents AS d ON d.run_id = $run AND d.doc_id = c.doc_id
    WHERE c.run_id = $run AND NOT list_contains(s.exemplars[:$shown], c.doc_id)
) AS c WHERE c.place <= 3 * $shown GROUP BY c.cluster
"""
_MIX = """
SELECT c.cluster, y.value, count(*) FROM clusters AS c
JOIN labels_of($run) AS y ON y.doc_id = c.doc_id
WHERE c.run_id = $run AND y.value IS NOT NULL GROUP BY c.cluster, y.value
ORDER BY c.cluster, count(*) DESC, y.value
"""
_TOKENS = """
SELECT f.latent, f.top_token FROM features AS f
WHERE f.run_id = ? AND f.latent IN (SELECT unnest(?))
"""
_MASSIVE = """
SELECT m.latent, m.token, m.mean_massive, m.mean_typical FROM massive_latents AS m
WHERE m.run_id = ? AND m.latent IN (SELECT unnest(?))
"""
_METRICS = """
SELECT m.metric, m.kind, m.representation, m.value FROM cluster_metrics AS m
WHERE m.run_id = ? AND m.representation <> 'decoder'
    AND (m.kind <> 'stability' AND m.metric IN ('nmi', 'ari', 'silhouette')
        OR m.kind = 'stability' AND m.metric = 'ari')
"""


class Massive(NamedTuple):
    """A latent of massive activations: the token it fires on, its mean there, and elsewhere."""

    token: str
    there: float
    elsewhere: float | None


class TopLatent(NamedTuple):
    """A latent that sets a cluster apart."""

    latent: int
    top_token: str | None
    massive: Massive | None


class Cluster(NamedTuple):
    """A cluster. mix: documents by label, the most frequent first. odd: those that stayed in it
    least, of other labels first. jaccard, support: how much of it, and of its documents, fits on
    part of the documents find again."""

    cluster: int
    size: int
    top_label: str | None
    top_label_share: float | None
    keywords: list[str]
    latents: list[TopLatent]
    exemplars: list[Glance]
    odd: list[Glance]
    mix: list[tuple[str, int]]
    jaccard: float | None
    support: float | None

    @property
    def stability(self) -> str:
        """stable, fair or weak; nothing where it is not known."""
        if self.jaccard is None:
            return ""
        return "stable" if self.jaccard > STABLE else "fair" if self.jaccard >= NAMED else "weak"

    @property
    def ruling(self) -> Massive | None:
        """The token that rules it: that of most of its latents."""
        found = [one.massive for one in self.latents if one.massive is not None]
        return found[0] if 2 * len(found) > len(self.latents) else None


class Beside(NamedTuple):
    """A measure of the clustering, of latents, activations and words, and of shuffled columns."""

    metric: str
    latents: float | None
    null: float | None
    activations: float | None
    tfidf: float | None


def clusters(store: duckdb.DuckDBPyConnection, run_id: str) -> list[Cluster]:
    """The largest first. Raises ``Missing`` if the run has none."""
    given = {"run": run_id, "shown": SHOWN}
    rows = store.execute(_CLUSTERS, given | {"latents": LATENTS}).fetchall()
    if not rows:
        raise Missing(f"run {run_id} has no clusters: it was run with cluster.enabled = false")
    odd = dict(store.execute(_ODD, given).fetchall())
    mixes: dict[int, list[tuple[str, int]]] = {}
    for cluster, label, n in store.execute(_MIX, {"run": run_id}).fetchall():
        mixes.setdefault(cluster, []).append((label, n))
    numbers = sorted({latent for row in rows for latent in row[5] or ()})
    tokens = dict(store.execute(_TOKENS, [run_id, numbers]).fetchall())
    massive = _massive(store, run_id, numbers)
    chosen = [doc for those in (*(row[6] or () for row in rows), *odd.values()) for doc in those]
    texts = {one.doc_id: one for one in glances(store, run_id, chosen)}
    return [
        Cluster(
            number, size, label, share, keywords or [],
            [TopLatent(one, tokens.get(one), massive.get(one)) for one in latents or ()],
            _different([texts[doc] for doc in exemplars or () if doc in texts]),
            _different([texts[doc] for doc in odd.get(number, ()) if doc in texts]),
            mixes.get(number, []), jaccard, support,
        )
        for number, size, label, share, keywords, latents, exemplars, jaccard, support in rows
    ]  # fmt: skip


def beside(store: duckdb.DuckDBPyConnection, run_id: str) -> list[Beside]:
    """How good the clustering is, beside others by the same method."""
    found = {
        (metric, kind, what): value
        for metric, kind, what, value in store.execute(_METRICS, [run_id]).fetchall()
    }
    names = (
        ("nmi", "value", "with the labels (NMI)"),
        ("ari", "value", "with the labels (ARI)"),
        ("silhouette", "value", "silhouette"),
        ("ari", "stability", "fits on part of the documents, with each other (ARI)"),
    )
    made = [
        Beside(
            told, found.get((metric, kind, "latents")),
            found.get((metric, "null", "latents")) if kind == "value" else None,
            found.get((metric, kind, "activations")), found.get((metric, kind, "tfidf")),
        )
        for metric, kind, told in names
    ]  # fmt: skip
    return [one for one in made if one.latents is not None]


def _different(those: list[Glance]) -> list[Glance]:
    """The first few of different texts."""
    first: dict[str, Glance] = {}
    for one in those:
        first.setdefault(one.text, one)
    return list(first.values())[:SHOWN]


def _massive(
    store: duckdb.DuckDBPyConnection, run_id: str, latents: list[int]
) -> dict[int, Massive]:
    return {
        latent: Massive(token, there, elsewhere)
        for latent, token, there, elsewhere in store.execute(_MASSIVE, [run_id, latents]).fetchall()
    }
