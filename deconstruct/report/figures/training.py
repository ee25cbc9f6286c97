"""Figures of how the SAE was trained."""

from __future__ import annotations

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished, values
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    digits,
    panel,
    query,
)
from deconstruct.report.theme import ONE, OTHER
from deconstruct.store.query import resolve_run

POINTS = 200
"""Of a line: batches between them are left out."""
METRICS = {
    "fvu": "unexplained variance (FVU)",
    "l0": "latents on a token (L0)",
    "dead_share": "share of dead latents",
    "learning_rate": "learning rate",
}
_LOG = """
WITH wide AS (
    SELECT step, max(value) FILTER (WHERE metric = 'tokens') AS tokens,
    FROM training_log WHERE run_id = $1 GROUP BY step
)
SELECT metric, coalesce(w.tokens, step) AS tokens, w.tokens IS NULL AS of_steps, value
FROM training_log JOIN wide AS w USING (step)
WHERE run_id = $1 AND metric IN ('fvu', 'l0', 'dead_share', 'learning_rate') AND value IS NOT NULL
    AND isfinite(value)
ORDER BY metric, step
"""
_HELD_OUT = """
SELECT metric, value FROM sae_metrics
WHERE run_id = ? AND text = 'own' AND metric IN ('fvu', 'l0', 'dead_share')
"""


def training(store: duckdb.DuckDBPyConnection, run: str) -> alt.FacetChart:
    """FVU, L0, dead latents and learning rate over the tokens trained on."""
    run_id = resolve_run(store, run)
    found = query(store, _LOG, run_id)
    if not found:
        raise Missing(f"run {run_id} has no training log: its SAE was not trained here")
    after = {row["metric"]: row["value"] for row in query(store, _HELD_OUT, run_id)}
    found = _thinned(found)
    unit = "steps" if found[0]["of_steps"] else "tokens"
    rows: Rows = [
        {
            "metric": METRICS[row["metric"]],
            unit: row["tokens"],
            "value": digits(row["value"]),
            "held out": digits(after.get(row["metric"])),
        }
        for row in found
    ]
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=1.5, color=ONE)
        .encode(
            x=alt.X(
                f"{unit}:Q", title=f"{unit} trained on", axis=alt.Axis(format="~s", tickCount=4)
            ),
            y=alt.Y("value:Q", title=None, axis=panel()),
        )
    )
    across = alt.Chart().mark_rule(color=OTHER, strokeDash=[5, 3]).encode(y="mean(held out):Q")
    chart = (
        alt.layer(lines, across)
        .properties(width=WIDTH // 2 - 30, height=110)
        .facet(
            alt.Facet("metric:N", sort=list(METRICS.values()), title=None),
            columns=2,
            data=values(rows),
        )
        .resolve_scale(y="independent")
    )
    last = [row for row in found if row["metric"] == "fvu"]
    return finished(
        chart,
        Told(
            "training",
            "How training went",
            "Each panel is one measure of the batches that training read; the dashed line is the "
            "same of held-out documents afterwards. It does not show whether more tokens would "
            "have helped: a flat end may be the learning rate's.",
            f"Training ended at an FVU of {last[-1]['value']:.3g}; held out it is "
            f"{after.get('fvu', float('nan')):.3g}."
            if last
            else "Measures of training.",
        ),
    )


def _thinned(found: Rows) -> Rows:
    """As many rows of each metric as a line shows, its last one among them."""
    kept: Rows = []
    for metric in dict.fromkeys(row["metric"] for row in found):
        of_it = [row for row in found if row["metric"] == metric]
        kept += of_it[:: -max(1, -(-len(of_it) // POINTS))][::-1]
    return kept
