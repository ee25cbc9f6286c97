"""Figures of documents that came after the SAE was trained."""

from __future__ import annotations

from typing import cast

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    decades,
    digits,
    dots,
    height,
    layered,
    names_for,
    powers,
    query,
    reference,
    stacked,
    whiskers,
)
from deconstruct.report.theme import QUIET, coloured
from deconstruct.store.query import resolve_run

MOST = 12
"""Rows of a subject; of more, those of the largest differences."""
EACH = 10
"""Latents that grew, and latents that fell."""
WORDS = {"fvu_train_mean": "unexplained variance (FVU)", "l0": "latents on a token (L0)"}

_DRIFT = """
SELECT subject, metric, reference, current, difference, ci_low AS low, ci_high AS high
FROM drift WHERE run_id = ? AND difference IS NOT NULL AND isfinite(difference)
ORDER BY subject, abs(difference) DESC, metric
"""
_LATENTS = """
WITH moved AS (
    SELECT d.latent, reference_density AS before, current_density AS since, log2_ratio, f.top_token,
        row_number() OVER (ORDER BY log2_ratio DESC, d.latent) AS up,
        row_number() OVER (ORDER BY log2_ratio, d.latent) AS down
    FROM latent_drift AS d LEFT JOIN features AS f ON f.run_id = d.run_id AND f.latent = d.latent
    WHERE d.run_id = $1 AND log2_ratio <> 0
)
SELECT * FROM moved WHERE up <= $2 AND log2_ratio > 0 OR down <= $2 AND log2_ratio < 0
ORDER BY log2_ratio DESC, latent
"""


def drift(store: duckdb.DuckDBPyConnection, run: str) -> alt.VConcatChart:
    """What differs in documents since the SAE was trained: differences with their intervals."""
    run_id = resolve_run(store, run)
    found = query(store, _DRIFT, run_id)
    if not found:
        raise Missing(f"run {run_id} has no drift: it did not keep a standing SAE")
    kept: Rows = []
    for subject in dict.fromkeys(row["subject"] for row in found):
        kept += [row for row in found if row["subject"] == subject][:MOST]
    called = names_for(row["metric"] for row in kept)
    rows: Rows = [
        {
            "of": row["subject"],
            "measure": WORDS.get(row["metric"], called[row["metric"]]),
            "before": digits(row["reference"]),
            "since": digits(row["current"]),
            "difference": digits(row["difference"]),
            "low": digits(row["low"]),
            "high": digits(row["high"]),
        }
        for row in kept
    ]
    y = alt.Y("measure:N", sort=None, title=None)
    marks = dots(60).encode(
        x=alt.X(
            "difference:Q",
            title="since, less before",
            scale=alt.Scale(padding=14),
            axis=alt.Axis(tickCount=6),
        ),
        y=y,
        tooltip=["measure:N", "before:Q", "since:Q", "difference:Q", "low:Q", "high:Q"],
    )

    def plot(those: Rows) -> alt.LayerChart:
        known = any(row["low"] is not None for row in those)
        rules = [whiskers("x", "low", "high", y)] if known else []
        both = alt.layer(reference("x", 0), *rules, marks)
        return cast(alt.LayerChart, both.properties(width=WIDTH - 80, height={"step": 24}))

    chart = stacked(rows, "of", plot)
    apart = [row for row in rows if row["low"] is not None and row["low"] * row["high"] > 0]
    return finished(
        chart,
        Told(
            "drift",
            "How documents since training differ",
            "Dots are the values of documents since, less those of the documents that the SAE was "
            "trained among (held-out ones); rules are 95% intervals where there are such, and the "
            "dashed line is no difference. It does not show why: more of one subject moves all "
            "of it.",
            f"{len(rows)} differences; of {len(apart)} the interval leaves zero out.",
        ),
    )


def drifted_latents(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """The latents that fire most more, and most less, often in documents since training."""
    run_id = resolve_run(store, run)
    found = query(store, _LATENTS, run_id, EACH)
    if not found:
        raise Missing(f"run {run_id} has no drift of latents: it did not keep a standing SAE")
    called = names_for(f"{row['latent']}  {row['top_token'] or ''}" for row in found)
    kinds = {"before": "before", "since": "since"}
    known = [row[k] for row in found for k in kinds if row[k]]
    least = min(known, default=1e-6) / 2
    rows: Rows = [
        {
            "latent": called[f"{row['latent']}  {row['top_token'] or ''}"],
            "documents": kinds[kind],
            "share of tokens": digits(row[kind], 3),
            "drawn at": digits(max(row[kind], least), 3),
            "times": digits(2 ** row["log2_ratio"], 3),
        }
        for row in found
        for kind in kinds
    ]
    ends = least / 1.2, max(known, default=1.0) * 1.3
    colour, shape = coloured("documents", list(kinds))
    y = alt.Y("latent:N", sort=None, title="latent, and its commonest token")
    x = alt.X("drawn at:Q", scale=decades(*ends), axis=powers(*ends, "~%", grid=True))
    lines = (
        alt.Chart()
        .mark_line(color=QUIET, strokeWidth=1, aria=False)
        .encode(x=x, y=y, detail="latent:N")
    )
    marks = dots(60).encode(
        x=x.title("share of tokens on which it fires"),
        y=y,
        color=colour,
        shape=shape,
        tooltip=["latent:N", "documents:N", "share of tokens:Q", "times:Q"],
    )
    up, down = found[0], found[-1]
    return finished(
        layered(rows, lines, marks).properties(width=WIDTH - 40, height=height(len(found))),
        Told(
            "drifted-latents",
            "Latents that fire more, and less, often since training",
            f"The {EACH} latents whose share of tokens grew most, above, and fell most, below; one "
            "that is silent is drawn at the left edge. They are the extremes of thousands, so that "
            "some would be here by chance: there are no intervals.",
            f"Latent {up['latent']} fires {2 ** up['log2_ratio']:.3g} times as often as before, "
            f"latent {down['latent']} {2 ** down['log2_ratio']:.3g} times.",
        ),
    )
