"""Figures of two runs side by side, and of a run beside its controls."""

from __future__ import annotations

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    digits,
    dots,
    histogram,
    layered,
    query,
    reference,
    whiskers,
)
from deconstruct.report.theme import coloured
from deconstruct.store.query import resolve_run

METRICS = {
    "fvu_typical": "unexplained variance, typical tokens",
    "fvu": "unexplained variance, all tokens",
    "delta_loss": "loss added by the SAE",
    "kl": "change of predictions (KL)",
    "top1_agreement": "likeliest next token stays",
    "loss_recovered_token_lookup": "loss recovered, against token lookup",
    "auroc of latents": "labels read off latents (AUROC)",
    "accuracy of latents": "labels told by latents (accuracy)",
}
"""What is compared, of `differences`, in words."""
FAR = 100
"""Percent from which on differences are drawn on an axis that grows by powers of ten."""
BIN = 0.05

_DIFFERENCES = """
SELECT other, metric, value_base, value_other, difference, ci_low AS low, ci_high AS high, n,
    p_corrected, paired
FROM differences($1, $2, metrics := $3) WHERE difference IS NOT NULL
"""
_CONTROLS = """
SELECT control, seed, run_id FROM control_runs(?) ORDER BY control, seed
"""
_MATCHED = f"""
SELECT floor(cosine / {BIN}) AS bin, count(*) AS latents FROM latent_matches
WHERE run_id = ? AND other_run = ? AND cosine IS NOT NULL AND isfinite(cosine)
GROUP BY ALL ORDER BY ALL
"""
_NULL = """
SELECT metric, value FROM matching_metrics WHERE run_id = ? AND other_run = ?
    AND metric IN ('pw_mcc', 'pw_mcc_null')
"""
_MATCHINGS = "SELECT other_run FROM matchings WHERE run_id = ? ORDER BY made DESC, other_run"


def comparison(store: duckdb.DuckDBPyConnection, run: str, other: str) -> alt.LayerChart:
    """What differs in another run: paired differences with their intervals."""
    base, second = resolve_run(store, run), resolve_run(store, other)
    if base == second:
        raise Missing(
            f"{run[:60]!r} and {other[:60]!r} are one run; name another to compare it with"
        )
    rows = _differences(store, base, {second: second})
    if not rows:
        raise Missing(f"runs {base} and {second} have no measures in common")
    return finished(
        _forest(rows),
        Told(
            "comparison",
            f"What differs in run {second} from run {base}",
            "Differences over the held-out documents that both judged, in percent of the value of "
            f"{base}; rules are 95% intervals of paired differences, and a mark without one has "
            "none (other documents). It does not show that a difference is more than the seed's: "
            "controls of other seeds do.",
            _told(rows),
        ),
    )


def controls(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """What a run loses when one thing is taken away from it: differences to its controls."""
    run_id = resolve_run(store, run)
    found = query(store, _CONTROLS, run_id)
    called = {
        row["run_id"]: f"seed {row['seed']}" if row["control"] == "seed" else row["control"]
        for row in found
    }
    rows = _differences(store, run_id, called) if called else []
    if not rows:
        raise Missing(f"run {run_id} has no controls in the store (deconstruct run --controls)")
    return finished(
        _forest(rows),
        Told(
            "controls",
            "What a run is worth beside its controls",
            "Differences of the controls to the run over the same held-out documents, in percent "
            "of the run's value (beyond 100 on an axis that grows by powers of ten); rules are 95% "
            "intervals. What a control reaches too is no finding of the run. It does not show "
            "which part of a difference matters.",
            _told(rows),
        ),
    )


def matches(store: duckdb.DuckDBPyConnection, run: str, other: str | None = None) -> alt.LayerChart:
    """How much of the dictionary another run finds again: cosines of matched latents.

    other: None for the run that it was matched with last.
    """
    run_id = resolve_run(store, run)
    known = [row["other_run"] for row in query(store, _MATCHINGS, run_id)]
    second = resolve_run(store, other) if other else next(iter(known), None)
    found = query(store, _MATCHED, run_id, second) if second in known else []
    if not found:
        beside = f" with {second}" if other else ""
        raise Missing(f"run {run_id} is not matched{beside} (deconstruct match)")
    told = {row["metric"]: row["value"] for row in query(store, _NULL, run_id, second)}
    rows: Rows = [
        {
            "from": round(row["bin"] * BIN, 2),
            "to": round(row["bin"] * BIN + BIN, 2),
            "latents": row["latents"],
        }
        for row in found
    ]
    marks = histogram(
        alt.X("from:Q", title="cosine of matched decoder rows", axis=alt.Axis(grid=False),
                scale=alt.Scale(domain=[min(0, rows[0]["from"]), 1])),
        alt.Y("latents:Q", title="pairs of latents"),
        "latents:Q",
    )  # fmt: skip
    layers: list[alt.Chart | alt.LayerChart] = [marks]
    mean, chance = told.get("pw_mcc"), told.get("pw_mcc_null")
    if chance is not None:
        layers.append(reference("x", digits(chance) or 0, "by chance"))
    total = sum(row["latents"] for row in rows)
    over = sum(row["latents"] for row in rows if row["from"] >= 0.7 - 1e-9)
    return finished(
        layered(rows, *layers).properties(width=WIDTH, height=190),
        Told(
            "matches",
            f"How much of the dictionary run {second} finds again",
            "Each bar counts latents by the cosine with their partner, one to one; the dashed line "
            "is the mean of random rows matched the same way. It does not show that a latent "
            "without a partner is noise: the other run may have split it.",
            f"{over:,} of {total:,} pairs have a cosine above 0.7"
            + (
                "."
                if mean is None or chance is None
                else f"; the mean is {mean:.3g}, by chance {chance:.3g}."
            ),
        ),
    )


def _differences(store: duckdb.DuckDBPyConnection, base: str, others: dict[str, str]) -> Rows:
    """Differences of ``others`` (what each is called) to ``base``, in percent of its values."""
    found = query(store, _DIFFERENCES, base, list(others), list(METRICS))
    order = list(METRICS)
    return [
        {
            "measure": METRICS[row["metric"]],
            "run": others[row["other"]],
            "value": digits(row["value_base"]),
            "other value": digits(row["value_other"]),
            "difference": digits(row["difference"]),
            "percent": digits(100 * row["difference"] / abs(row["value_base"])),
            "low": _part(row["low"], row["value_base"]),
            "high": _part(row["high"], row["value_base"]),
            "documents": row["n"],
            "p": digits(row["p_corrected"], 3),
        }
        for row in sorted(
            found, key=lambda r: (order.index(r["metric"]), list(others).index(r["other"]))
        )
        if row["value_base"]
    ]


def _part(value: float | None, base: float) -> float | None:
    return None if value is None else digits(100 * value / abs(base))


def _forest(rows: Rows) -> alt.LayerChart:
    ends = [
        abs(row[end]) for row in rows for end in ("percent", "low", "high") if row[end] is not None
    ]
    scale, axis = alt.Scale(padding=14), alt.Axis(format=",~r", tickCount=6)
    if max(ends) > FAR:
        widest = 1.3 * max(ends)
        ticks = [sign * 10**power for power in range(1, 7) for sign in (-1, 1)]
        scale = alt.Scale(type="symlog", constant=10, domain=[-widest, widest])
        axis = alt.Axis(format=",~r", values=[0, *[t for t in ticks if abs(t) <= widest]])
    runs = list(dict.fromkeys(str(row["run"]) for row in rows))
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    colour, shape = coloured("run", runs, legend=len(runs) > 1)
    y = alt.Y("measure:N", sort=measures, title=None, axis=alt.Axis(labelLimit=220))
    offset = alt.YOffset("run:N", scale=alt.Scale(domain=runs, paddingOuter=0.5))
    marks = dots(55).encode(
        x=alt.X("percent:Q", title="difference, % of the run's value", scale=scale, axis=axis),
        y=y,
        yOffset=offset,
        color=colour,
        shape=shape,
        tooltip=[
            "measure:N",
            "run:N",
            "value:Q",
            "other value:Q",
            "difference:Q",
            "low:Q",
            "high:Q",
            "documents:Q",
            "p:Q",
        ],
    )
    layers: list[alt.Chart | alt.LayerChart] = [
        reference("x", 0),
        whiskers("x", "low", "high", y, offset, colour),
        marks,
    ]
    tall = len(measures) * max(24, 11 * len(runs))
    return layered(rows, *layers).properties(width=WIDTH - 130, height=tall)


def _told(rows: Rows) -> str:
    many = len({row["run"] for row in rows}) > 1
    told = [
        f"{row['run'] + ': ' if many else ''}{row['measure']} {row['other value']} instead of "
        f"{row['value']}"
        for row in rows
    ]
    more = f"; and {len(told) - 12} more" if len(told) > 12 else ""
    return "; ".join(told[:12]) + more + "."
