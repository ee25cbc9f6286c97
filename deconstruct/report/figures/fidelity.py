"""Figures of how faithfully the SAE gives activations back, beside controls and floors."""

from __future__ import annotations

from typing import cast

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    digits,
    dots,
    height,
    layered,
    query,
    reference,
    stacked,
    told_interval,
    whiskers,
)
from deconstruct.report.theme import ONE, coloured
from deconstruct.store.query import resolve_run

LOW = {
    "fvu_typical": "unexplained variance, typical tokens",
    "fvu": "unexplained variance, all tokens",
    "dead_share": "latents that are dead",
    "silent_share": "latents silent on held-out text",
}
HIGH = {
    "top1_agreement": "likeliest next token stays",
    "ce_loss_score": "loss recovered, against zeros",
    "loss_recovered_mean": "loss recovered, against the mean",
    "loss_recovered_token_lookup": "loss recovered, against token lookup",
}
BETTER = {
    **dict.fromkeys(LOW, "nearer to 0 is better"),
    **dict.fromkeys(HIGH, "nearer to 1 is better"),
}
LOSSES = {
    "loss_clean": "the model as it is",
    "loss_spliced": "through the SAE",
    "loss_pca": "through principal components",
    "loss_token_lookup": "the token's mean in place",
    "loss_unigram": "shares of tokens alone",
    "loss_mean": "the mean in place",
    "loss_zero": "zeros in place",
}
THIS = "this run"
POSITIONS = 64
"""Bins of positions."""

_METRICS = """
SELECT metric, value, ci_low AS low, ci_high AS high, n FROM sae_metrics
WHERE run_id = ? AND text = 'own' AND value IS NOT NULL
"""
_CONTROLS = """
SELECT c.control, c.seed, m.metric, m.value, m.ci_low AS low, m.ci_high AS high
FROM control_runs(?) AS c JOIN sae_metrics AS m ON m.run_id = c.run_id
WHERE m.text = 'own' AND m.value IS NOT NULL
ORDER BY c.control, c.seed
"""
_POSITIONS = f"""
WITH judged AS (
    SELECT t.position, e.squared_error / e.squared_norm AS error
    FROM token_errors AS e JOIN tokens AS t ON t.run_id = $1 AND t.token_index = e.token_index
    WHERE e.run_id = $1 AND e.squared_norm > 0 AND isfinite(e.squared_error)
), width AS (SELECT greatest(1, ceil((max(position) + 1) / {POSITIONS}))::BIGINT AS w FROM judged)
SELECT position // w * w AS position, quantile_cont(error, [0.25, 0.5, 0.75]) AS error,
    count(*) AS tokens
FROM judged, width GROUP BY position // w * w ORDER BY ALL
"""


def fidelity(store: duckdb.DuckDBPyConnection, run: str) -> alt.VConcatChart:
    """Headline measures of the SAE with their intervals, beside those of its controls."""
    run_id = resolve_run(store, run)
    own = [{"who": THIS, **row} for row in query(store, _METRICS, run_id)]
    beside = query(store, _CONTROLS, run_id)
    for row in beside:
        row["who"] = f"seed {row['seed']}" if row["control"] == "seed" else row["control"]
    names = {**LOW, **HIGH}
    rows: Rows = [
        {
            "measure": names[row["metric"]],
            "whose": row["who"],
            "value": digits(row["value"]),
            "low": digits(row["low"]),
            "high": digits(row["high"]),
            "reading": BETTER[row["metric"]],
        }
        for row in own + beside
        if row["metric"] in names
    ]
    if not rows:
        raise Missing(f"run {run_id} has no metrics of its SAE")
    whose = list(dict.fromkeys(row["whose"] for row in rows))
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    colour, shape = coloured("whose", whose)
    y = alt.Y(
        "measure:N", sort=[names[n] for n in names], title=None, axis=alt.Axis(labelLimit=230)
    )
    offset = alt.YOffset("whose:N", scale=alt.Scale(domain=whose, paddingOuter=0.4))
    marks = dots(50).encode(
        x=alt.X("value:Q", title="share"),
        y=y,
        yOffset=offset,
        color=colour,
        shape=shape,
        tooltip=["measure:N", "whose:N", "value:Q", "low:Q", "high:Q"],
    )
    bars = whiskers("x", "low", "high", y, offset, colour)

    def plot(_: Rows) -> alt.LayerChart:
        both = alt.layer(bars, marks)
        return cast(alt.LayerChart, both.properties(width=WIDTH - 140, height={"step": 9}))

    chart = stacked(rows, "reading", plot, spacing=12).resolve_scale(x="shared")
    typical = next((row for row in own if row["metric"] == "fvu_typical"), own[0])
    return finished(
        chart,
        Told(
            "fidelity",
            "How faithful the SAE is",
            "Dots are values on held-out documents, rules their 95% intervals over documents. "
            "Zeros in place recover nothing by definition: 0 is the floor of what is recovered. "
            "It does not show whether latents mean anything.",
            f"Unexplained variance of typical tokens: {told_interval(typical)}. "
            f"{len(measures)} measures, {len(whose) - 1} controls.",
        ),
    )


def losses(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """The model's loss through the SAE, beside what simpler things in its place give."""
    run_id = resolve_run(store, run)
    found = {row["metric"]: row for row in query(store, _METRICS, run_id)}
    rows: Rows = [
        {
            "in place of the activations": LOSSES[name],
            "loss": digits(found[name]["value"]),
            "low": digits(found[name]["low"]),
            "high": digits(found[name]["high"]),
            "predictions": found[name]["n"],
        }
        for name in LOSSES
        if name in found
    ]
    if not rows:
        raise Missing(f"run {run_id} has no losses: none were asked for (evaluation.max_documents)")
    y = alt.Y("in place of the activations:N", sort=None, title=None, axis=alt.Axis(labelLimit=200))
    marks = dots(60).encode(
        x=alt.X("loss:Q", title="next-token loss, nats", scale=alt.Scale(zero=False)),
        y=y,
        tooltip=["in place of the activations:N", "loss:Q", "low:Q", "high:Q", "predictions:Q"],
    )
    layers: list[alt.Chart | alt.LayerChart] = [whiskers("x", "low", "high", y), marks]
    if "loss_clean" in found:
        layers.insert(0, reference("x", digits(found["loss_clean"]["value"]) or 0, "the model"))
    told = {name: row["value"] for name, row in found.items()}
    return finished(
        layered(rows, *layers).properties(width=WIDTH - 60, height=height(len(rows))),
        Told(
            "losses",
            "What the SAE leaves of the model's predictions",
            "The loss with the reconstruction in place of the activations, beside simpler things "
            "in their place; the dashed line is the model's own, rules are 95% intervals. An SAE "
            "to the right of the token's mean tells less than the token alone. It does not show "
            "which predictions change.",
            "; ".join(f"{LOSSES[n]}: {told[n]:.3g} nats" for n in LOSSES if n in told) + ".",
        ),
    )


def positions(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """Where in a text reconstruction is worst: the error of a token by its position."""
    run_id = resolve_run(store, run)
    found = query(store, _POSITIONS, run_id)
    if not found:
        raise Missing(f"run {run_id} has no errors of tokens")
    rows: Rows = [
        {
            "position": row["position"],
            "low": digits(row["error"][0]),
            "median": digits(row["error"][1]),
            "high": digits(row["error"][2]),
            "tokens": row["tokens"],
        }
        for row in found
    ]
    x = alt.X("position:Q", title="position in the text, tokens", axis=alt.Axis(grid=False))
    line = (
        alt.Chart()
        .mark_line(color=ONE, point=alt.OverlayMarkDef(size=16))
        .encode(
            x=x,
            y=alt.Y("median:Q", title="squared error / squared length"),
            tooltip=["position:Q", "median:Q", "low:Q", "high:Q", "tokens:Q"],
        )
    )
    chart = layered(rows, whiskers("y", "low", "high", x), line)
    worst = max(rows, key=lambda row: row["median"] or 0)
    return finished(
        chart.properties(width=WIDTH, height=180),
        Told(
            "positions",
            "Where in a text reconstruction is worst",
            "Median error of held-out tokens by position; rules reach from the lower to the upper "
            "quartile of the tokens. It is relative to the activation's length, so that it is no "
            "FVU, and says nothing of single tokens.",
            f"The largest median error, {worst['median']:.3g}, is at position {worst['position']}.",
        ),
    )
