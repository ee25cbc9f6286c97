"""Figures of the whole dictionary."""

from __future__ import annotations

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished, values
from deconstruct.store.query import resolve_run

_DENSITY = """
SELECT low, high, latents FROM density_histogram WHERE run_id = ? ORDER BY low
"""


def density(store: duckdb.DuckDBPyConnection, run: str) -> alt.Chart:
    """How often latents fire: a histogram of densities, on a logarithmic axis."""
    run_id = resolve_run(store, run)
    found = store.execute(_DENSITY, [run_id]).fetchall()
    if not found:
        raise Missing(f"run {run_id} has no density histogram")
    rows = [{"from": 10**low, "to": 10**high, "latents": n} for low, high, n in found]
    chart = (
        alt.Chart(values(rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "from:Q",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~g"),
                title="share of tokens it fires on",
            ),
            x2="to:Q",
            y=alt.Y("latents:Q", title="latents"),
            tooltip=["from:Q", "to:Q", "latents:Q"],
        )
    )
    return finished(
        chart,
        Told(
            "density",
            "How often latents fire",
            "Each bar counts latents by the share of held-out tokens on which they fire. It does "
            "not show whether a latent means anything: dense and rare ones can both be noise.",
            f"A histogram of {sum(r['latents'] for r in rows):,} latents.",
        ),
    )
