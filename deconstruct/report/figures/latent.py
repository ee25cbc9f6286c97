"""Figures of one latent."""

from __future__ import annotations

from typing import Any

import altair as alt
import duckdb
import numpy as np

from deconstruct.report.chart import Missing, Told, finished
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    digits,
    dots,
    height,
    histogram,
    layered,
    names_for,
    query,
    reference,
    whiskers,
)
from deconstruct.report.reading.positions import positions
from deconstruct.store.query import QueryError, resolve_run

BINS = 20
PLACES = 32
"""Bins of activations and of positions."""
MOST = 20
"""Labels of which a lift is shown."""

_READY = "SELECT low, high, n FROM latent_histogram WHERE run_id = ? AND latent = ? ORDER BY bin"
_COUNTED = f"""
WITH top AS (
    SELECT max_activation / {BINS} AS width FROM features WHERE run_id = $1 AND latent = $2
)
SELECT bin * width AS low, (bin + 1) * width AS high, count(*) AS n
FROM (
    SELECT least(floor(l.activation / t.width), {BINS - 1}) AS bin, t.width
    FROM latents AS l, top AS t WHERE l.run_id = $1 AND l.latent = $2 AND t.width > 0
)
GROUP BY ALL ORDER BY ALL
"""
_LIFT = """
SELECT label, lift, ci_low AS low, ci_high AS high, n_both, n_latent
FROM label_enrichment($1, task := $3)
WHERE latent = $2 AND isfinite(lift) ORDER BY low_train DESC NULLS LAST, label
"""
_FEATURE = "SELECT n_fires, density, max_activation FROM features WHERE run_id = ? AND latent = ?"


def activations(store: duckdb.DuckDBPyConnection, run: str, latent: int) -> alt.LayerChart:
    """How strongly a latent fires where it does: a histogram of its activations."""
    run_id = resolve_run(store, run)
    feature = _feature(store, run_id, latent)
    try:
        found = query(store, _READY, run_id, latent)
    except duckdb.CatalogException:  # of a file that an older release exported
        found = []
    found = found or query(store, _COUNTED, run_id, latent)
    if not found:
        raise Missing(f"latent {latent} of run {run_id} never fires")
    rows: Rows = [
        {"from": digits(row["low"]), "to": digits(row["high"]), "tokens": row["n"]} for row in found
    ]
    marks = histogram(
        alt.X("from:Q", title="activation", axis=alt.Axis(grid=False), scale=alt.Scale(nice=False)),
        alt.Y(
            "tokens:Q",
            title="tokens",
            scale=alt.Scale(type="symlog"),
            axis=alt.Axis(values=[0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000], format="~s"),
        ),
        "tokens:Q",
    )
    return finished(
        layered(rows, marks).properties(width=WIDTH, height=150),
        Told(
            f"latent-{latent}-activations",
            f"How strongly latent {latent} fires",
            "Each bar counts tokens by the latent's activation where it fires, on an axis that "
            "grows by powers of ten. It does not show on what it fires: weak firings often have "
            "another meaning than the strong ones.",
            f"Latent {latent} fires on {feature['n_fires']:,} tokens ({feature['density']:.2%}), "
            f"at {feature['max_activation']:.4g} at most.",
        ),
    )


def lift(
    store: duckdb.DuckDBPyConnection, run: str, latent: int, task: str | None = None
) -> alt.LayerChart:
    """How much more often documents in which a latent fires have each label.

    task: a column of labels other than the first.
    """
    run_id = resolve_run(store, run)
    _feature(store, run_id, latent)
    found = query(store, _LIFT, run_id, latent, task)
    if not found:
        raise Missing(
            f"latent {latent} of run {run_id} has no lift: "
            "it fires in no held-out document with a label"
        )
    called = names_for(row["label"] for row in found)
    rows: Rows = [
        {
            "label": called[row["label"]],
            "lift": digits(row["lift"], 3),
            "low": digits(row["low"], 3),
            "high": digits(row["high"], 3),
            "documents": row["n_both"],
        }
        for row in found[:MOST]
    ]
    y = alt.Y("label:N", sort=None, title=None)
    marks = dots(60).encode(
        x=alt.X("lift:Q", title="times as often as in all documents"),
        y=y,
        tooltip=["label:N", "lift:Q", "low:Q", "high:Q", "documents:Q"],
    )
    layers: list[alt.Chart | alt.LayerChart] = [
        reference("x", 1),
        whiskers("x", "low", "high", y),
        marks,
    ]
    first = rows[0]
    return finished(
        layered(rows, *layers).properties(width=WIDTH - 60, height=height(len(rows))),
        Told(
            f"latent-{latent}-lift",
            f"Which labels documents have in which latent {latent} fires",
            "How many times as often as all held-out documents those in which it fires have a "
            "label, with 95% intervals; the dashed line is no difference. The order is of train "
            "documents. It does not show that the label is what it answers to.",
            f"{first['label']}: {first['lift']} times ({first['low']} to {first['high']}).",
        ),
    )


def latent_positions(store: duckdb.DuckDBPyConnection, run: str, latent: int) -> alt.LayerChart:
    """Where in texts a latent fires: on what share of the tokens at each position."""
    run_id = resolve_run(store, run)
    feature = _feature(store, run_id, latent)
    skipped, fires, tokens = positions(store, run_id, latent)
    there = skipped + np.flatnonzero(tokens[skipped:])
    if not feature["n_fires"] or not len(there):
        raise Missing(f"latent {latent} of run {run_id} never fires")
    width = max(1, -(-int(there[-1] + 1) // PLACES))
    rows: Rows = [
        {
            "from": low,
            "to": low + width,
            "share": digits(fires[those].sum() / tokens[those].sum(), 3),
            "fires": int(fires[those].sum()),
            "tokens": int(tokens[those].sum()),
        }
        for low in np.unique(there // width * width).tolist()
        if len(those := there[there // width * width == low])
    ]
    marks = histogram(
        alt.X(
            "from:Q",
            title="position in the text, tokens",
            axis=alt.Axis(grid=False),
            scale=alt.Scale(nice=False),
        ),
        alt.Y("share:Q", title="share of tokens", axis=alt.Axis(format="~%", tickCount=4)),
        "share:Q",
        "fires:Q",
        "tokens:Q",
    )
    layers: list[alt.Chart | alt.LayerChart] = [
        marks,
        reference("y", digits(feature["density"]) or 0),
    ]
    top = max(rows, key=lambda row: row["share"] or 0)
    return finished(
        layered(rows, *layers).properties(width=WIDTH, height=130),
        Told(
            f"latent-{latent}-positions",
            f"Where in texts latent {latent} fires",
            "The share of the tokens at each position on which it fires; the dashed line is its "
            "share of all tokens. Few texts reach the last positions. It does not show how "
            "strongly it fires there.",
            f"Most often at positions {top['from']} to {top['to'] - 1}: on {top['share']:.2%}.",
        ),
    )


def _feature(store: duckdb.DuckDBPyConnection, run_id: str, latent: int) -> dict[str, Any]:
    found = query(store, _FEATURE, run_id, latent)
    if not found:
        raise QueryError(f"run {run_id} has no latent {latent}")
    return found[0]
