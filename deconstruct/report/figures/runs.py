"""Figures of many runs: a name over its nights, and the runs of a sweep."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished, values
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    decades,
    digits,
    dots,
    names_for,
    panel,
    powers,
    query,
    whiskers,
)
from deconstruct.report.theme import ONE, OTHER, QUIET, coloured
from deconstruct.store.query import QueryError, resolve_run

MOST = 30
"""Executions of a trend."""
FAR = 4
"""Times by which L0 differs from which on its axis is logarithmic."""
TREND = {
    "fvu_typical": ("FVU of typical tokens", "max_fvu_typical"),
    "delta_loss": ("loss added, nats", "max_delta_loss"),
    "dead_share": ("dead latents, share", "max_dead_share"),
    "accuracy": ("accuracy of the probe", "min_probe_accuracy"),
    "documents": ("documents", None),
}
"""Metrics of a trend: what each is called, and the gate that it has."""

_NAMED = """
SELECT n.name, n.analysis, r.site FROM names AS n JOIN runs AS r USING (run_id)
WHERE n.run_id = ? ORDER BY n.last_execution DESC
"""
_TREND = f"""
WITH night AS (
    SELECT e.execution, e.run_id, e.started, e.config, r.documents
    FROM executions AS e JOIN runs AS r ON r.run_id = e.run_id
    WHERE e.name = $1 AND e.analysis = $2 AND r.site = $3
    ORDER BY e.execution DESC LIMIT {MOST}
)
SELECT execution, strftime(started, '%Y-%m-%d %H:%M') AS started, metric, value, low, high, config
FROM night JOIN (
    SELECT run_id, metric, value, ci_low AS low, ci_high AS high FROM sae_metrics
    WHERE text = 'own' AND metric IN ('fvu_typical', 'delta_loss', 'dead_share')
    UNION ALL
    SELECT p.run_id, 'accuracy', value, ci_low, ci_high
    FROM probes AS p JOIN runs AS r ON r.run_id = p.run_id AND r.label_column = p.task
    WHERE representation = 'latents' AND p.k IS NULL AND label IS NULL AND metric = 'accuracy'
    UNION ALL SELECT run_id, 'documents', documents, NULL, NULL FROM runs
) USING (run_id)
ORDER BY execution
"""
_SWEEP = """
SELECT p.run_id, p.site, p.architecture, p.d_sae, p.seed, p.l0, p.on_front, p.on_loss_front,
    m.metric, m.value, m.ci_low AS low, m.ci_high AS high
FROM pareto(?) AS p JOIN sae_metrics AS m ON m.run_id = p.run_id
WHERE m.text = 'own' AND m.metric IN ('fvu_typical', 'delta_loss') AND p.analysis = ?
    AND p.site = ? AND p.l0 > 0
ORDER BY p.l0, p.run_id, m.metric
"""


def trend(store: duckdb.DuckDBPyConnection, run: str, name: str | None = None) -> alt.FacetChart:
    """How the last 30 executions of a run's name, at its site, went; gates as lines.

    name: another one that the run goes by than its newest.
    """
    run_id, own = _named(store, run, name)
    found = query(store, _TREND, *own)
    nights = list(dict.fromkeys(row["execution"] for row in found))
    if len(nights) < 2:
        raise Missing(f"run {run_id} has no trend: {own[0]} was executed once")
    gates = json.loads(found[-1]["config"]).get("gates", {})
    number = {night: i + 1 for i, night in enumerate(nights)}
    rows: Rows = [
        {
            "measure": TREND[row["metric"]][0],
            "execution": number[row["execution"]],
            "started": row["started"],
            "value": digits(row["value"], 6),
            "low": digits(row["low"]),
            "high": digits(row["high"]),
            "gate": gates.get(TREND[row["metric"]][1]),
        }
        for metric in TREND
        for row in found
        if row["metric"] == metric and row["value"] is not None
    ]
    first, last = (
        {
            row["metric"]: row["value"]
            for row in found
            if row["execution"] == night and row["value"] is not None
        }
        for night in (nights[0], nights[-1])
    )
    told = [
        f"{words} {first[metric]:.3g} at first, {last[metric]:.3g} last"
        for metric, (words, _) in TREND.items()
        if metric in first and metric in last
    ]
    return finished(
        _nights(rows, len(nights)),
        Told(
            "trend",
            f"The last {len(nights)} executions of {names_for([own[0]])[own[0]]}",
            "Dots are executions, oldest first, rules 95% intervals over held-out documents, "
            "dashed lines gates. Where nothing new was made, the same run stands twice. It does "
            "not show whether the documents changed or the SAE did: drift says more.",
            "; ".join(told) + ".",
        ),
    )


def _nights(rows: Rows, nights: int) -> alt.FacetChart:
    """A panel for each measure, executions from left to right."""
    x = alt.X(
        "execution:Q",
        title="execution, oldest first",
        scale=alt.Scale(domain=[0.5, nights + 0.5], nice=False),
        axis=alt.Axis(grid=False, tickMinStep=1, tickCount=6, format="d"),
    )
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=panel())
    marks = alt.Chart().encode(x=x, y=y)
    gate = alt.Chart().mark_rule(color=OTHER, strokeDash=[5, 3]).encode(y="mean(gate):Q")
    dots = marks.mark_point(filled=True, size=30, opacity=1, color=ONE).encode(
        tooltip=["measure:N", "started:N", "value:Q", "low:Q", "high:Q", "gate:Q"]
    )
    line = marks.mark_line(strokeWidth=1, opacity=0.4, color=ONE, aria=False)
    return (
        alt.layer(gate, line, whiskers("y", "low", "high", x), dots)
        .properties(width=WIDTH // 2 - 30, height=100)
        .facet(
            alt.Facet("measure:N", sort=[told for told, _ in TREND.values()], title=None),
            columns=2, data=values(rows),
        )
        .resolve_scale(y="independent")
    )  # fmt: skip


def sweep(store: duckdb.DuckDBPyConnection, run: str, name: str | None = None) -> alt.FacetChart:
    """Sparsity against faithfulness: the runs of a sweep, and those that none is better than.

    name: of the sweep; None: the newest name of the run.
    """
    run_id, own = _named(store, run, name)
    found = query(store, _SWEEP, *own)
    if len({row["run_id"] for row in found}) < 2:
        raise Missing(f"run {run_id} is of no sweep: {own[0]} is one run of this site")
    kinds = names_for(f"{row['architecture']}, {row['d_sae']:,} latents" for row in found)
    front = {"fvu_typical": "on_front", "delta_loss": "on_loss_front"}
    rows: Rows = [
        {
            "measure": TREND[row["metric"]][0],
            "run": row["run_id"],
            "kind": kinds[f"{row['architecture']}, {row['d_sae']:,} latents"],
            "L0": digits(row["l0"]),
            "value": digits(row["value"]),
            "low": digits(row["low"]),
            "high": digits(row["high"]),
            "on the front": bool(row[front[row["metric"]]]),
        }
        for row in found
    ]
    best = [row for row in rows if row["on the front"]]
    return finished(
        _front(rows, [TREND[metric][0] for metric in front]),
        Told(
            "sweep",
            "Sparsity against faithfulness",
            "Each mark is a run; the line joins those that no other is better than in both. Rules "
            "are 95% intervals over held-out documents: runs of other seeds differ by more. It "
            "does not show which run's latents mean more.",
            f"{len({row['run'] for row in rows})} runs; on the fronts "
            f"{', '.join(dict.fromkeys(str(row['run']) for row in best))}.",
        ),
    )


def _front(rows: Rows, measures: Sequence[str]) -> alt.FacetChart:
    """A panel for each of ``measures`` against L0, the best runs of it joined."""
    colour, shape = coloured("kind", list(dict.fromkeys(str(row["kind"]) for row in rows)))
    least, most = (end(row["L0"] for row in rows) for end in (min, max))
    scale, axis = alt.Scale(zero=False, padding=10), alt.Axis(grid=False, tickCount=5)
    if most > FAR * least:
        ends = least / 1.2, most * 1.2
        scale, axis = decades(*ends), powers(*ends)
    x = alt.X("L0:Q", title="latents on a token (L0)", scale=scale, axis=axis)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=panel(count=5))
    line = alt.Chart().mark_line(color=QUIET, strokeWidth=1, aria=False).encode(x=x, y=y)
    marks = dots(55).encode(
        x=x,
        y=y,
        color=colour,
        shape=shape,
        tooltip=["run:N", "kind:N", "L0:Q", "value:Q", "low:Q", "high:Q"],
    )
    line = line.transform_filter("datum['on the front']")
    by_measure = alt.Facet("measure:N", sort=list(measures), title=None)
    return (
        alt.layer(line, whiskers("y", "low", "high", x, colour), marks)
        .properties(width=WIDTH // 2 - 30, height=180)
        .facet(by_measure, columns=2, data=values(rows))
        .resolve_scale(y="independent")
    )


def _named(
    store: duckdb.DuckDBPyConnection, run: str, name: str | None
) -> tuple[str, tuple[str, str, str]]:
    """The run, and its name, analysis and site: of names the given one, or the one that it was
    asked for by, or its newest.

    Raises ``QueryError`` if it has no such name.
    """
    run_id = resolve_run(store, run)
    found = query(store, _NAMED, run_id)
    called = re.split("[@/]", run)[0] if name is None else name
    same = [row for row in found if row["name"] == called]
    if name is not None and not same:
        raise QueryError(f"run {run_id} goes by no name {name[:60]!r}")
    own = (same or found)[0]
    return run_id, (own["name"], own["analysis"], own["site"])
