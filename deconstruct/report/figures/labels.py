"""Figures of what labels are read off, and how well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished
from deconstruct.report.drawing import (
    OTHERS,
    WIDTH,
    Rows,
    digits,
    dots,
    grouped,
    height,
    layered,
    query,
    reference,
    told_interval,
    whiskers,
)
from deconstruct.report.theme import ONE, coloured
from deconstruct.store.query import resolve_run

NAMES = {
    "latents": "latents",
    "activations": "activations",
    "tfidf": "words (tf-idf)",
    "pca": "principal components",
    "random_projection": "random projection",
    "token_embeddings": "token embeddings",
    "length": "length alone",
    "majority": "the commonest label",
}
"""Representations, in words; those of figures that show some are the first of them."""
FLAT = alt.Axis(labelAngle=0)
TOP = 12
"""Labels of a confusion matrix; of more, the rarer ones are one group."""

MEASURES = {
    "auroc": "area under the ROC curve, mean of labels",
    "r2": "share of variance told (R2)",
    "accuracy": "accuracy",
}
"""What probes are judged by, the first that a run has; the last of runs of older releases."""

_FIRST = "SELECT coalesce(first_task($1), (SELECT min(task) FROM probes WHERE run_id = $1))"
_PROBES = """
SELECT representation, k, metric, value, ci_low AS low, ci_high AS high, n_test FROM probes
WHERE run_id = $1 AND label IS NULL AND task = $2
ORDER BY representation, k
"""
_CURVE = """
SELECT representation, n, avg(value) AS value, min(value) AS low, max(value) AS high,
    count(*) AS draws
FROM probe_curve WHERE run_id = $1 AND task = $2
GROUP BY ALL ORDER BY ALL
"""
_CONFUSION = """
SELECT label, predicted, count(*) AS documents FROM probe_predictions
WHERE run_id = $1 AND representation = 'latents' AND k IS NULL
    AND task = $2
GROUP BY ALL ORDER BY ALL
"""


def probe_curve(
    store: duckdb.DuckDBPyConnection, run: str, task: str | None = None
) -> alt.LayerChart:
    """How many dimensions labels need: probes on the k best ones, latents beside other inputs.

    task: a column of labels other than the first.
    """
    run_id = resolve_run(store, run)
    found, measure = _probes(store, run_id, task)
    shown = [
        n
        for n in ("latents", "activations", "tfidf")
        if any(r["representation"] == n for r in found)
    ]
    ks = sorted({row["k"] for row in found if row["representation"] in shown and row["k"]})
    rows: Rows = [
        {
            "probe on": NAMES[row["representation"]],
            "k": "all" if row["k"] is None else str(row["k"]),
            "value": digits(row["value"]),
            "low": digits(row["low"]),
            "high": digits(row["high"]),
        }
        for row in found
        if row["representation"] in shown
    ]
    x = alt.X(
        "k:N", sort=[*map(str, ks), "all"], title="dimensions that the probe reads", axis=FLAT
    )
    layers = _curve(x, [NAMES[name] for name in shown], MEASURES[measure])
    floor = next((r["value"] for r in found if r["representation"] == "majority"), None)
    if floor is not None:
        layers.insert(0, reference("y", digits(floor) or 0))
    best = {row["representation"]: row for row in found if row["k"] is None}
    return finished(
        layered(rows, *layers).properties(width=WIDTH, height=240),
        Told(
            "probe-curve",
            "How many dimensions a label needs",
            "Probes that read the k dimensions chosen on train documents, judged on held-out ones; "
            "rules are 95% intervals, the dashed line is the commonest label. Latents that are "
            "worth their name reach with few what activations reach with many. It does not show "
            "that the latents chosen are about the label: they may follow something beside it.",
            "On all dimensions: "
            + "; ".join(f"{NAMES[n]} {told_interval(best[n])}" for n in shown if n in best)
            + ".",
        ),
    )


def representations(
    store: duckdb.DuckDBPyConnection, run: str, task: str | None = None
) -> alt.LayerChart:
    """What labels can be read off, and how well: each representation, few and all dimensions."""
    run_id = resolve_run(store, run)
    found, measure = _probes(store, run_id, task)
    ks = sorted({row["k"] for row in found if row["k"]})
    kept = [*dict.fromkeys([*ks[:1], *ks[len(ks) // 2 + 1 :][:1]]), None]
    told = {k: "all dimensions" if k is None else f"{k} of them" for k in kept}
    order = sorted(
        {row["representation"] for row in found},
        key=lambda name: -max(r["value"] for r in found if r["representation"] == name),
    )
    called = {name: NAMES.get(name, name) for name in order}
    rows: Rows = [
        {
            "probe on": called[row["representation"]],
            "reads": told[row["k"]],
            "value": digits(row["value"]),
            "low": digits(row["low"]),
            "high": digits(row["high"]),
        }
        for row in found
        if row["k"] in kept
    ]
    colour, shape = coloured("reads", [told[k] for k in reversed(kept)])
    y = alt.Y("probe on:N", sort=list(called.values()), title=None, axis=alt.Axis(labelLimit=150))
    marks = dots(55).encode(
        x=alt.X("value:Q", title=MEASURES[measure], scale=alt.Scale(zero=False)),
        y=y,
        color=colour,
        shape=shape,
        tooltip=["probe on:N", "reads:N", "value:Q", "low:Q", "high:Q"],
    )
    layers: list[alt.Chart | alt.LayerChart] = [whiskers("x", "low", "high", y, colour), marks]
    best = {row["representation"]: row for row in found if row["k"] is None}
    return finished(
        layered(rows, *layers).properties(width=WIDTH - 60, height=height(len(order))),
        Told(
            "representations",
            "What labels are read off, and how well",
            "Each row is a probe's input, best first; rules are 95% intervals over held-out "
            "documents. Words, and a text's length, need no model: what they reach too is no "
            "finding about it. Overlapping rules do not say that two inputs are equal: the table "
            "has paired gaps.",
            "; ".join(f"{called[n]} {told_interval(best[n])}" for n in order if n in best) + ".",
        ),
    )


def learning_curve(
    store: duckdb.DuckDBPyConnection, run: str, task: str | None = None
) -> alt.LayerChart:
    """How many labelled documents are needed: probes on few train documents of each class."""
    run_id = resolve_run(store, run)
    shown = ["latents", "activations", "tfidf", "length"]
    found = [
        r
        for r in query(store, _CURVE, run_id, _task(store, run_id, task))
        if r["representation"] in shown
    ]
    if not found:
        raise Missing(f"run {run_id} has no probes on few documents")
    shown = [name for name in shown if any(r["representation"] == name for r in found)]
    rows: Rows = [
        {
            "probe on": NAMES[row["representation"]],
            "documents of each label": row["n"],
            "value": digits(row["value"]),
            "low": digits(row["low"]),
            "high": digits(row["high"]),
            "draws": row["draws"],
        }
        for row in found
    ]
    ns = sorted({row["n"] for row in found})
    x = alt.X(
        "documents of each label:O", sort=ns, title="train documents of each label", axis=FLAT
    )
    layers = _curve(x, [NAMES[name] for name in shown], MEASURES["auroc"])
    few = {r["representation"]: r["value"] for r in found if r["n"] == ns[0]}
    return finished(
        layered(rows, *layers).properties(width=WIDTH, height=220),
        Told(
            "learning-curve",
            "How many labelled documents a probe needs",
            f"Means over {found[0]['draws']} draws of train documents, rules from the worst draw "
            "to the best; all draws are judged on the same held-out documents, so rules are no "
            "intervals of the score. It does not show what other texts would give.",
            f"With {ns[0]} documents of each label: "
            + "; ".join(f"{NAMES[n]} {few[n]:.3g}" for n in shown if n in few)
            + ".",
        ),
    )


def confusion(
    store: duckdb.DuckDBPyConnection, run: str, task: str | None = None
) -> alt.LayerChart:
    """Which labels are taken for which: the probe on all latents, held-out documents counted."""
    run_id = resolve_run(store, run)
    found = query(store, _CONFUSION, run_id, _task(store, run_id, task))
    if not found:
        raise Missing(f"run {run_id} has no probe that tells classes")
    called = grouped([one for r in found for one in [r["label"]] * r["documents"]], TOP)
    for row in found:  # a label that is predicted alone
        called.setdefault(row["predicted"], OTHERS)
    order = sorted(set(called.values()) - {OTHERS}) + [OTHERS] * (OTHERS in called.values())
    counts: Counter[tuple[str, str]] = Counter()
    for row in found:
        counts[called[row["label"]], called[row["predicted"]]] += row["documents"]
    sums = {one: sum(counts[one, other] for other in order) for one in order}
    rows: Rows = [
        {
            "label": one,
            "predicted": other,
            "documents": counts[one, other],
            "share of the label": digits(counts[one, other] / sums[one], 3),
        }
        for one in order
        for other in order
        if sums[one]
    ]
    right = sum(counts[one, one] for one in order)
    total = sum(sums.values())
    return finished(
        _table(rows, order),
        Told(
            "confusion",
            "Which labels are taken for which",
            "Held-out documents by label (rows) and what the probe on all latents says (columns); "
            "shade is the share of the row. It does not show why: mistakes come with the latents "
            "that pushed them.",
            f"{right:,} of {total:,} held-out documents are on the diagonal.",
        ),
    )


def _curve(x: alt.X, names: Sequence[str], measure: str) -> list[alt.Chart | alt.LayerChart]:
    """Values of several inputs along ``x``, side by side so that intervals don't cover others."""
    colour, shape = coloured("probe on", names)
    offset = alt.XOffset("probe on:N", scale=alt.Scale(domain=list(names), paddingOuter=1))
    y = alt.Y("value:Q", title=measure, scale=alt.Scale(zero=False))
    place = alt.Chart().encode(x=x, xOffset=offset, y=y, color=colour)
    tooltip = ["probe on:N", x.shorthand, "value:Q", "low:Q", "high:Q"]
    return [
        place.mark_line(strokeWidth=1.2, opacity=0.6, aria=False),
        whiskers("y", "low", "high", x, offset, colour),
        place.mark_point(filled=True, size=55, opacity=1).encode(shape=shape, tooltip=tooltip),
    ]


def _table(rows: Rows, order: Sequence[str]) -> alt.LayerChart:
    """Counts of label and prediction, shaded by the share of the row."""
    x = alt.X(
        "predicted:N",
        sort=order,
        title="the probe says",
        axis=alt.Axis(labelAngle=-35, labelLimit=90),
    )
    y = alt.Y("label:N", sort=order, title="label", axis=alt.Axis(labelLimit=120))
    cells = (
        alt.Chart()
        .mark_rect(color=ONE)
        .encode(
            x=x,
            y=y,
            opacity=alt.Opacity(
                "share of the label:Q", scale=alt.Scale(domain=[0, 1], range=[0, 0.6]), legend=None
            ),
            tooltip=["label:N", "predicted:N", "documents:Q", "share of the label:Q"],
        )
    )
    texts = (
        alt.Chart()
        .mark_text(fontSize=12)
        .encode(x=x, y=y, text="documents:Q")
        .transform_filter("datum.documents > 0")
    )
    side = min(WIDTH - 60, 52 * len(order))
    return layered(rows, cells, texts).properties(width=side, height=min(side, 34 * len(order)))


def _task(store: duckdb.DuckDBPyConnection, run_id: str, task: str | None) -> str | None:
    """The column of labels: ``task``, or the one that the run is about, or any that is probed."""
    if task is not None:
        return task
    [[first]] = store.execute(_FIRST, [run_id]).fetchall()
    return None if first is None else str(first)


def _probes(store: duckdb.DuckDBPyConnection, run_id: str, task: str | None) -> tuple[Rows, str]:
    """The probes of a column, by the first measure that there is, and which that is."""
    found = query(store, _PROBES, run_id, _task(store, run_id, task))
    for measure in MEASURES:
        of_it = [row for row in found if row["metric"] == measure and row["value"] is not None]
        if of_it:
            return of_it, measure
    raise Missing(f"run {run_id} has no probes" + (f" of {task}" if task else ": it has no labels"))
