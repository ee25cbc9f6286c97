"""Figures of the two maps: documents by their latents, latents by their directions."""

from __future__ import annotations

from statistics import median

import altair as alt
import duckdb

from deconstruct.report.chart import Told, finished
from deconstruct.report.drawing import (
    LABELS,
    NONE_BEST,
    OTHERS,
    POINTS,
    WIDTH,
    Rows,
    digits,
    grouped,
    layered,
    names_for,
    query,
    query_new,
)
from deconstruct.report.theme import coloured
from deconstruct.store.query import resolve_run

NO_MASSIVE = "no massive token"
MANY = 600
"""Marks from which on they are small."""
NO_MAP = "run {} has no map: it was made without one; run it again with map.enabled"

_DOCUMENTS = """
SELECT m.doc_id AS document, m.{x} AS x, m.{y} AS y, m.massive, d.label, c.cluster
FROM document_map AS m
JOIN documents AS d ON d.run_id = m.run_id AND d.doc_id = m.doc_id
LEFT JOIN clusters AS c ON c.run_id = m.run_id AND c.doc_id = m.doc_id
WHERE m.run_id = ? AND m.{x} IS NOT NULL ORDER BY hash(m.doc_id), m.doc_id
"""
_KEYWORDS = "SELECT cluster, keywords FROM cluster_summary WHERE run_id = ?"
_LATENTS = """
SELECT m.latent, m.x, m.y, f.density, f.top_token
FROM latent_map AS m JOIN features AS f ON f.run_id = m.run_id AND f.latent = m.latent
WHERE m.run_id = ? ORDER BY hash(m.latent), m.latent
"""
_OF_LABELS = """
SELECT latent, arg_max(label, cohen_d) AS label, max(cohen_d) AS d FROM label_latents
WHERE run_id = $1 AND cohen_d > 0 AND task = first_task($1) GROUP BY latent
"""


def document_map(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """Documents near those in which like latents fire, by label, with the clusters' words."""
    run_id = resolve_run(store, run)
    found = _documents(store, run_id, "x", "y")
    called = grouped([row["label"] for row in found], LABELS)
    shown = found[:POINTS]
    names = _middles(store, run_id, found)
    rows: Rows = [
        {
            "x": digits(row["x"], 3),
            "y": digits(row["y"], 3),
            "label": called[row["label"]],
            "document": row["document"],
        }
        for row in shown
    ] + names
    labels = list(dict.fromkeys(called.values()))
    return finished(
        _map(rows, "label", labels, ["label:N", "document:Q"]),
        Told(
            "document-map",
            "Documents in which like latents fire",
            "Each mark is a document, near those in which like latents fire; colour and shape are "
            "its label, words are clusters' at their middles. What is near is alike; what is far "
            "is not so much unlike, and sizes of groups mean nothing (t-SNE). All documents, not "
            "held-out ones alone." + _sampled(len(shown), len(found), "documents"),
            f"{len(found):,} documents; labels, the commonest first: {', '.join(labels)}.",
        ),
    )


def pooled_map(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """Documents by pooled activations as they are, and which of them hold massive tokens."""
    run_id = resolve_run(store, run)
    found = _documents(store, run_id, "pooled_x", "pooled_y")
    kinds = [NO_MASSIVE, "one massive token or more"]
    rows: Rows = [
        {
            "x": digits(row["x"], 3),
            "y": digits(row["y"], 3),
            "holds": kinds[bool(row["massive"])],
            "massive tokens": row["massive"],
            "document": row["document"],
        }
        for row in found[:POINTS]
    ]
    holding = sum(bool(row["massive"]) for row in found)
    return finished(
        _map(rows, "holds", kinds, ["holds:N", "massive tokens:Q", "document:Q"]),
        Told(
            "pooled-map",
            "Documents as the probe reads them, and massive tokens",
            "Each mark is a document, near those of like mean activations of latents. Where "
            "documents with massive tokens lie together, single tokens decide what is alike, not "
            "what documents are about. It does not show which latents do it: the massive latents "
            "do." + _sampled(len(rows), len(found), "documents"),
            f"{holding:,} of {len(found):,} documents hold a massive token.",
        ),
    )


def latent_map(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """Latents near those whose directions are like theirs, by the label that they tell best."""
    run_id = resolve_run(store, run)
    found = query_new(store, _LATENTS, run_id, lacks=NO_MAP.format(run_id))
    best = {row["latent"]: row for row in query(store, _OF_LABELS, run_id)}
    called = grouped([best[r["latent"]]["label"] for r in found if r["latent"] in best], LABELS - 1)
    telling = [row for row in found if row["latent"] in best]
    rest = [row for row in found if row["latent"] not in best]
    shown = (rest[: max(0, POINTS - len(telling))] + telling)[-POINTS:]
    tokens = names_for((row["top_token"] for row in shown), 24)
    rows: Rows = [
        {
            "x": digits(row["x"], 3),
            "y": digits(row["y"], 3),
            "label": called[best[row["latent"]]["label"]] if row["latent"] in best else NONE_BEST,
            "latent": row["latent"],
            "density": digits(row["density"], 3),
            "top token": tokens[row["top_token"]],
        }
        for row in shown
    ]
    labels = list(dict.fromkeys(called.values()))
    chart = _map(
        rows, "label", [*labels, NONE_BEST], ["latent:Q", "label:N", "density:Q", "top token:N"]
    )
    return finished(
        chart,
        Told(
            "latent-map",
            "Latents whose directions are alike",
            "Each mark is a latent, near those whose decoder rows point its way (t-SNE: only what "
            "is near tells). Coloured are the 50 latents that tell each label best, by held-out "
            "effect. It does not show that latents of one colour fire together."
            + _sampled(len(shown), len(found), "latents, with all coloured ones,"),
            f"{len(found):,} latents; {len(telling):,} are among the best for a label.",
        ),
    )


def _documents(store: duckdb.DuckDBPyConnection, run_id: str, x: str, y: str) -> Rows:
    sql = _DOCUMENTS.format(x=x, y=y)
    return query_new(store, sql, run_id, lacks=NO_MAP.format(run_id))


def _middles(store: duckdb.DuckDBPyConnection, run_id: str, found: Rows) -> Rows:
    """Words of each cluster, at the median place of its documents."""
    places: dict[int, Rows] = {}
    for row in found:
        if row["cluster"] is not None:
            places.setdefault(row["cluster"], []).append(row)
    words = {
        r["cluster"]: ", ".join((r["keywords"] or [])[:2]) for r in query(store, _KEYWORDS, run_id)
    }
    names = names_for((words[one] for one in sorted(places) if words.get(one)), 28)
    return [
        {
            "x": digits(median(row["x"] for row in places[one]), 3),
            "y": digits(median(row["y"] for row in places[one]), 3),
            "cluster": names[words[one]],
        }
        for one in sorted(places)
        if words.get(one)
    ]


def _map(rows: Rows, field: str, order: list[str], tooltip: list[str]) -> alt.LayerChart:
    quiet = {OTHERS, NONE_BEST, NO_MASSIVE} & set(order)
    colour, shape = coloured(field, order, quiet=quiet)
    scale = alt.Scale(zero=False, nice=False, padding=8)
    x, y = alt.X("x:Q", scale=scale, axis=None), alt.Y("y:Q", scale=scale, axis=None)
    small, large = (7, 18) if len(rows) > MANY else (20, 50)
    marks = alt.Chart().mark_point(filled=True, opacity=1, strokeWidth=0, aria=False)
    layers: list[alt.Chart | alt.LayerChart] = [
        marks.encode(
            x=x,
            y=y,
            color=colour,
            shape=shape,
            tooltip=tooltip,
            size=alt.condition(
                alt.FieldOneOfPredicate(field=field, oneOf=sorted(quiet)),
                alt.value(small),
                alt.value(large),
            ),
        ).transform_filter(f"isValid(datum.{field})")
    ]
    if any("cluster" in row for row in rows):
        named = alt.Chart().transform_filter("isValid(datum.cluster)")
        halo = named.mark_text(
            fontWeight=600, fontSize=12, stroke="white", strokeWidth=3, aria=False
        )
        layers += [
            one.encode(x=x, y=y, text="cluster:N")
            for one in (halo, named.mark_text(fontWeight=600, fontSize=12))
        ]
    return layered(rows, *layers).properties(width=WIDTH + 60, height=WIDTH)


def _sampled(shown: int, found: int, what: str) -> str:
    return "" if shown == found else f" {shown:,} of {found:,} {what} are drawn, chosen by chance."
