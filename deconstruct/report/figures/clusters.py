"""Figures of clusters of documents."""

from __future__ import annotations

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished
from deconstruct.report.drawing import (
    LABELS,
    OTHERS,
    WIDTH,
    Rows,
    digits,
    grouped,
    histogram,
    layered,
    names_for,
    query,
)
from deconstruct.report.theme import COLOURS, ONE, OTHER, QUIET, columns
from deconstruct.store.query import resolve_run

WIDEST = 0.11
"""Share of the longest bar that a part must have to be written on."""
MOST = 40
"""Clusters that are drawn, the largest first."""
BANDS = 20
"""Bins of the histogram of support."""

_MIX = """
SELECT c.cluster, s.keywords, s.jaccard, d.label, count(*) AS documents
FROM clusters AS c
JOIN documents AS d ON d.run_id = c.run_id AND d.doc_id = c.doc_id
LEFT JOIN cluster_summary AS s ON s.run_id = c.run_id AND s.cluster = c.cluster
WHERE c.run_id = ? GROUP BY ALL ORDER BY ALL
"""
_CURVE = """
SELECT k, stability, standard_error, null_stability, chosen FROM cluster_curve
WHERE run_id = ? AND stability IS NOT NULL ORDER BY k
"""
_SUPPORT = f"""
SELECT least(floor(support * {BANDS}), {BANDS - 1}) AS bin, count(*) AS documents
FROM clusters WHERE run_id = ? AND support IS NOT NULL GROUP BY ALL ORDER BY ALL
"""


def label_mix(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """Which labels the documents of each cluster have: a bar for each cluster."""
    run_id = resolve_run(store, run)
    found = query(store, _MIX, run_id)
    if not found:
        raise Missing(f"run {run_id} has no clusters")
    called = grouped([label for r in found for label in [r["label"]] * r["documents"]], LABELS)
    order = list(dict.fromkeys(called.values()))
    sizes: dict[int, int] = {}
    parts: dict[tuple[int, str], int] = {}
    for row in found:
        key = row["cluster"], called[row["label"]]
        sizes[row["cluster"]] = sizes.get(row["cluster"], 0) + row["documents"]
        parts[key] = parts.get(key, 0) + row["documents"]
    shown = sorted(sizes, key=lambda one: (-sizes[one], one))[:MOST]
    words = {row["cluster"]: ", ".join((row["keywords"] or [])[:3]) for row in found}
    titles = names_for((f"{one}: {words[one]}" for one in shown), 32)
    rows = []
    for cluster in shown:
        start = 0
        for label in order:
            if part := parts.get((cluster, label)):
                wide = part >= WIDEST * max(sizes.values())
                rows.append({
                    "cluster": titles[f"{cluster}: {words[cluster]}"],
                    "label": label,
                    "documents": part,
                    "share": digits(part / sizes[cluster], 3),
                    "from": start,
                    "to": start + part,
                    "middle": start + part / 2,
                    "written": label[:12] if wide else "",
                })  # fmt: skip
                start += part
    y = alt.Y("cluster:N", sort=None, title=None, axis=alt.Axis(labelLimit=190))
    colours = [QUIET if one == OTHERS else COLOURS[i] for i, one in enumerate(order)]
    bars = alt.Chart().mark_bar(height=18, stroke="white", strokeWidth=1, opacity=0.75).encode(
        x=alt.X("from:Q", title="documents"), x2="to:Q", y=y,
        color=alt.Color(
            "label:N", scale=alt.Scale(domain=order, range=colours),
            legend=alt.Legend(title=None, columns=columns(order)),
        ),
        tooltip=["cluster:N", "label:N", "documents:Q", "share:Q"],
    )  # fmt: skip
    texts = (
        alt.Chart().mark_text(fontSize=10.5, aria=False).encode(x="middle:Q", y=y, text="written:N")
    )
    chart = layered(rows, bars, texts)
    return finished(
        chart.properties(width=WIDTH - 60, height=max(2, len(shown)) * 26),
        Told(
            "label-mix",
            "Which labels the documents of each cluster have",
            "A bar is a cluster of documents by their latents, with its words; all documents are "
            "in it, not held-out ones alone. Labels had no part in making clusters. It does not "
            "show that a cluster is real: its stability says more.",
            _told_mix(rows, sizes, len(shown)),
        ),
    )


def _told_mix(rows: list[dict[str, object]], sizes: dict[int, int], shown: int) -> str:
    first: dict[object, dict[str, object]] = {}
    for row in sorted(rows, key=lambda r: -float(str(r["documents"]))):
        first.setdefault(row["cluster"], row)
    parts = [f"{r['cluster']}: {float(str(r['share'])):.0%} {r['label']}" for r in first.values()]
    more = "" if shown == len(sizes) else f" The {shown} largest of {len(sizes)} are shown."
    return f"{len(sizes)} clusters. " + "; ".join(parts[:8]) + "." + more


def stability(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """How many clusters there are: how stable each number of them is, beside no structure."""
    run_id = resolve_run(store, run)
    found = query(store, _CURVE, run_id)
    if not found:
        raise Missing(f"run {run_id} has no clusters")
    rows: Rows = [
        {
            "clusters": row["k"],
            "stability": digits(row["stability"]),
            "low": digits(row["stability"] - 1.96 * (row["standard_error"] or 0)),
            "high": digits(row["stability"] + 1.96 * (row["standard_error"] or 0)),
            "shuffled": digits(row["null_stability"]),
            "chosen": row["chosen"],
        }
        for row in found
    ]
    best = next((row for row in rows if row["chosen"]), rows[0])
    return finished(
        _curve(rows).properties(width=WIDTH, height=210),
        Told(
            "stability",
            "How many clusters there are",
            "How alike fits on parts of the documents are, for each number of clusters; rules are "
            "95% intervals (jackknife over the fits), the dashed line is the same of shuffled "
            "columns. Of those within a standard error of the best the largest is chosen. It does "
            "not show that clusters mean anything: an artefact can be stable too.",
            f"{best['clusters']} clusters were chosen, with a stability of {best['stability']:.3g} "
            f"({best['low']:.3g} to {best['high']:.3g}).",
        ),
    )


def _curve(rows: Rows) -> alt.LayerChart:
    """Stability by number of clusters, the chosen one marked."""
    x = alt.X(
        "clusters:Q",
        title="number of clusters",
        axis=alt.Axis(grid=False, tickMinStep=1),
        scale=alt.Scale(zero=False, nice=False, padding=14),
    )
    y = alt.Y(
        "stability:Q",
        title="stability (adjusted Rand index)",
        scale=alt.Scale(domain=[min(0, *(r["low"] for r in rows), 0), 1]),
    )
    tip = ["clusters:Q", "stability:Q", "low:Q", "high:Q", "shuffled:Q"]
    rules = (
        alt.Chart()
        .mark_rule(color=ONE, strokeWidth=1.5, aria=False)
        .encode(x=x, y="low:Q", y2="high:Q")
    )
    line = (
        alt.Chart().mark_line(color=ONE, strokeWidth=1.2, opacity=0.6, aria=False).encode(x=x, y=y)
    )
    dots = (
        alt.Chart()
        .mark_point(filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            tooltip=tip,
            size=alt.condition("datum.chosen", alt.value(110), alt.value(36)),
            color=alt.condition("datum.chosen", alt.value(OTHER), alt.value(ONE)),
            shape=alt.condition("datum.chosen", alt.value("diamond"), alt.value("circle")),
        )
    )
    text = (
        alt.Chart()
        .mark_text(dy=-14, color=OTHER, text="chosen")
        .encode(x=x, y=y)
        .transform_filter("datum.chosen")
    )
    floor = (
        alt.Chart()
        .mark_line(color=QUIET, strokeDash=[4, 3], aria=False)
        .encode(x=x, y="shuffled:Q")
    )
    return layered(rows, floor, rules, line, dots, text)


def support(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """How sure documents are of their clusters: in what share of the fits each one stays."""
    run_id = resolve_run(store, run)
    found = query(store, _SUPPORT, run_id)
    if not found:
        raise Missing(f"run {run_id} has no clusters that were fitted again")
    rows: Rows = [
        {"from": row["bin"] / BANDS, "to": (row["bin"] + 1) / BANDS, "documents": row["documents"]}
        for row in found
    ]
    marks = histogram(
        alt.X(
            "from:Q",
            title="share of the fits in which a document stays in its cluster",
            axis=alt.Axis(format="%", grid=False),
            scale=alt.Scale(domain=[0, 1]),
        ),
        alt.Y("documents:Q", title="documents"),
        "documents:Q",
    )
    total = sum(row["documents"] for row in rows)
    sure = sum(row["documents"] for row in rows if row["from"] >= 0.9)
    return finished(
        layered(rows, marks).properties(width=WIDTH, height=170),
        Told(
            "support",
            "How sure documents are of their clusters",
            "Each bar counts documents by the share of fits on part of the documents in which "
            "they stay with their cluster; those at the left lie between clusters. It does not "
            "show whether a cluster is one subject.",
            f"{sure:,} of {total:,} documents stay in 90% of the fits or more.",
        ),
    )
