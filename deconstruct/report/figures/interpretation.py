"""Figures of how clear latents are."""

from __future__ import annotations

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished, values
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    digits,
    histogram,
    query,
)
from deconstruct.report.theme import OTHER, QUIET
from deconstruct.store.query import resolve_run

BINS = 20
WORDS = {
    "intruder-tfidf": "intruders found, by words alone",
    "intruder-endpoint": "intruders found, by a language model",
    "detection": "contexts detected, by an explanation",
    "fuzzing": "tokens detected, by an explanation",
}

_SCORES = f"""
WITH score AS (
    SELECT method, value, floor FROM latent_scores WHERE run_id = $1 AND value IS NOT NULL
    UNION ALL
    SELECT method, value, floor FROM explanation_scores WHERE run_id = $1 AND value IS NOT NULL
), whole AS (
    SELECT method, avg(value) AS mean, avg(floor) AS floor, count(*) AS n,
        1.96 * stddev_samp(value) / sqrt(count(*)) AS error
    FROM score GROUP BY method
)
SELECT method, least(floor(s.value * {BINS}), {BINS - 1}) AS bin, count(*) AS latents, w.mean,
    w.floor, w.n, w.error
FROM score AS s JOIN whole AS w USING (method) GROUP BY ALL ORDER BY ALL
"""


def intruders(store: duckdb.DuckDBPyConnection, run: str) -> alt.FacetChart:
    """How clear latents are: scores of a sample of them, beside what guessing gives."""
    run_id = resolve_run(store, run)
    found = query(store, _SCORES, run_id)
    if not found:
        raise Missing(f"run {run_id} has no scores of latents")
    called = {row["method"]: str(WORDS.get(row["method"], row["method"])) for row in found}
    rows: Rows = [
        {
            "score": called[row["method"]],
            "from": row["bin"] / BINS,
            "to": (row["bin"] + 1) / BINS,
            "latents": row["latents"],
            "guessing": digits(row["floor"]),
            "mean": digits(row["mean"]),
            "low": digits(row["mean"] - (row["error"] or 0)),
            "high": digits(row["mean"] + (row["error"] or 0)),
        }
        for row in found
    ]
    marks = histogram(
        alt.X("from:Q", title="score of a latent", axis=alt.Axis(grid=False),
              scale=alt.Scale(domain=[0, 1])),
        alt.Y("latents:Q", title="latents"),
    ).encode(tooltip=["score:N", "from:Q", "to:Q", "latents:Q"])  # fmt: skip
    lines = [
        mark.encode(x=f"mean({field}):Q", y=place)
        for field, colour, dash in (("guessing", QUIET, [4, 3]), ("mean", OTHER, [1, 0]))
        for mark, place in (
            (alt.Chart().mark_rule(color=colour, strokeDash=dash, strokeWidth=2), alt.Undefined),
            (alt.Chart().mark_text(text=field, color=colour, fontSize=11), alt.value(-7)),
        )
    ]
    header = alt.Header(orient="top", labelPadding=18)
    by_score = alt.Row("score:N", title=None, sort=list(called.values()), header=header)
    chart = (
        alt.layer(marks, *lines)
        .properties(width=WIDTH, height=150)
        .facet(row=by_score, data=values(rows))
        .resolve_scale(y="independent")
    )
    told = {row["method"]: row for row in found}
    return finished(
        chart,
        Told(
            "intruders",
            "How clear latents are",
            "Each bar counts latents of a sample by their score on held-out documents; the dashed "
            "line is guessing, the solid one the mean. By words alone a latent is clear if its "
            "contexts share words: what a latent means beyond them this does not show.",
            "; ".join(
                f"{called[m]}: mean {r['mean']:.3g} ({r['n']:,} latents), guessing {r['floor']:.3g}"
                for m, r in told.items()
            )
            + ".",
        ),
    )
