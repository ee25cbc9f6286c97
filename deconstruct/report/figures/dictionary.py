"""Figures of the whole dictionary."""

from __future__ import annotations

import altair as alt
import duckdb

from deconstruct.report.chart import Missing, Told, finished, values
from deconstruct.report.drawing import (
    WIDTH,
    Rows,
    decades,
    digits,
    dots,
    height,
    histogram,
    layered,
    names_for,
    powers,
    query,
    query_new,
)
from deconstruct.report.theme import COLOURS, ONE, OTHER, QUIET, coloured
from deconstruct.store.query import resolve_run

RARE, DENSE = 1e-4, 0.1
"""Shares of tokens below and above which a latent is called rare and dense, as the macro
``unusual_latents`` has it."""
BINS = 6
"""Of a decade, in the map of densities and activations."""
NAMED = 5
"""Latents of the largest activations, which are named."""

_DENSITY = "SELECT low, high, latents FROM density_histogram WHERE run_id = ? ORDER BY low"
_KINDS = """
SELECT count(*) FILTER (WHERE dead) AS dead,
    count(*) FILTER (WHERE NOT dead AND density < ?) AS rare,
    count(*) FILTER (WHERE density > ?) AS dense, count(*) AS n
FROM features WHERE run_id = ?
"""
_STRENGTH = f"""
SELECT floor(log10(density) * {BINS}) AS d, floor(log10(max_activation) * {BINS}) AS m,
    count(*) AS latents, arg_max(latent, max_activation) AS strongest,
    max(max_activation) AS at
FROM features WHERE run_id = ? AND NOT dead AND max_activation > 0
GROUP BY ALL ORDER BY ALL
"""
_NEAREST = """
SELECT floor(nearest_cosine / 0.05) AS bin, count(*) AS latents
FROM features WHERE run_id = ? AND NOT dead AND nearest_cosine IS NOT NULL AND
    NOT isnan(nearest_cosine)
GROUP BY ALL ORDER BY ALL
"""
_MASSIVE_TOKENS = """
SELECT token, sum(n)::BIGINT AS n, sum(share) AS share, sum(variance_share) AS variance
FROM massive_tokens WHERE run_id = ? GROUP BY token ORDER BY variance DESC, token LIMIT 8
"""
_MASSIVE_LATENTS = """
SELECT latent, token, mean_massive, mean_typical, n_massive, share_of_pooled
FROM massive_latents WHERE run_id = ? ORDER BY share_of_pooled DESC, latent LIMIT 10
"""


def density(store: duckdb.DuckDBPyConnection, run: str) -> alt.Chart:
    """How often latents fire: a histogram of densities, dead, rare and dense ones marked."""
    run_id = resolve_run(store, run)
    found = query(store, _DENSITY, run_id)
    if not found:
        raise Missing(f"run {run_id} has no density histogram")
    [kinds] = query(store, _KINDS, RARE, DENSE, run_id)
    dead, rare, dense, n = (kinds[name] for name in ("dead", "rare", "dense", "n"))
    told = {
        "usual": f"{n - dead - rare - dense:,} between",
        "rare": f"{rare:,} rare (below 0.01 %)",
        "dense": f"{dense:,} dense (above 10 %)",
        "dead": f"{dead:,} dead (no bar)",
    }

    first = next((i for i, row in enumerate(found) if row["latents"]), 0)
    rows: Rows = [
        {
            "from": digits(10 ** row["low"]),
            "to": digits(10 ** row["high"]),
            "latents": row["latents"],
            "kind": told[_kind(10 ** row["low"], 10 ** row["high"])],
        }
        for row in found[first:]
    ]
    colours = alt.Scale(domain=list(told.values()), range=[ONE, COLOURS[1], OTHER, QUIET])
    chart = (
        alt.Chart(values(rows))
        .mark_bar(stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X(
                "from:Q",
                scale=decades(rows[0]["from"], 1),
                axis=powers(rows[0]["from"], 1, "~%"),
                title="share of tokens on which a latent fires",
            ),
            x2="to:Q",
            y=alt.Y("latents:Q", title="latents"),
            y2=alt.datum(0),
            color=alt.Color("kind:N", scale=colours, legend=alt.Legend(title=None, columns=2)),
            tooltip=["from:Q", "to:Q", "latents:Q"],
        )
        .properties(width=WIDTH)
    )
    return finished(
        chart,
        Told(
            "density",
            "How often latents fire",
            "Each bar counts latents by the share of recorded tokens on which they fire. It does "
            "not show whether a latent means anything: dense and rare ones can both be noise.",
            f"A histogram of {n:,} latents: {dead:,} are dead, {rare:,} rare, {dense:,} dense.",
        ),
    )


def _kind(low: float, high: float) -> str:
    """What latents of a bin are called; its edges are those of the kinds, but for rounding."""
    return "rare" if high <= RARE * 1.01 else "dense" if low >= DENSE * 0.99 else "usual"


def strength(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """How often latents fire against how strongly: latents counted in cells of both axes."""
    run_id = resolve_run(store, run)
    found = query(store, _STRENGTH, run_id)
    if not found:
        raise Missing(f"run {run_id} has no latent that fires")
    named = _apart(sorted(found, key=lambda row: -row["at"]))
    rows: Rows = [
        {
            "from": digits(10 ** (row["d"] / BINS)),
            "to": digits(10 ** ((row["d"] + 1) / BINS)),
            "weakest": digits(10 ** (row["m"] / BINS)),
            "largest": digits(10 ** ((row["m"] + 1) / BINS)),
            "latents": row["latents"],
            "strongest latent": row["strongest"],
            "its activation": digits(row["at"]),
            "named": str(row["strongest"]) if row["strongest"] in named else None,
        }
        for row in found
    ]
    total = sum(row["latents"] for row in rows)
    top = max(rows, key=lambda row: row["its activation"] or 0)
    return finished(
        _cells(rows),
        Told(
            "strength",
            "How often latents fire, and how strongly",
            "Each cell counts latents: the stronger its colour, the more. Some have their numbers. "
            "A few far above all others often answer to massive activations of single tokens. It "
            "does not show on how many tokens a latent is that strong.",
            f"{total:,} latents that fire; the strongest, latent {top['strongest latent']}, "
            f"reaches {top['its activation']:,.0f}.",
        ),
    )


def _cells(rows: Rows) -> alt.LayerChart:
    """Latents counted by share of tokens and strongest activation, some by name."""
    left, low = (min(row[name] for row in rows) for name in ("from", "weakest"))
    high = max(row["largest"] for row in rows)
    x = alt.X("from:Q", scale=decades(left, 1), axis=powers(left, 1, "~%"))
    cells = (
        alt.Chart()
        .mark_rect(color=ONE, aria=False)
        .encode(
            x=x.title("share of tokens on which a latent fires"),
            x2="to:Q",
            y=alt.Y(
                "weakest:Q", scale=decades(low, high), axis=powers(low, high, "~s", grid=True)
            ).title("strongest activation"),
            y2="largest:Q",
            opacity=alt.Opacity(
                "latents:Q",
                scale=alt.Scale(type="log", range=[0.2, 1]),
                legend=alt.Legend(
                    title="latents", orient="top", direction="horizontal", values=[1, 10, 100, 1000]
                ),
            ),
            tooltip=["latents:Q", "strongest latent:Q", "its activation:Q", "from:Q", "to:Q"],
        )
    )
    names = (
        alt.Chart()
        .mark_text(align="left", dx=4, fontSize=11)
        .encode(x="to:Q", y="largest:Q", text="named:N")
        .transform_filter("isValid(datum.named)")
    )
    return layered(rows, cells, names).properties(width=WIDTH, height=260)


def _apart(found: Rows) -> set[int]:
    """The strongest latents of those cells whose names would not cover each other."""
    kept: Rows = []
    for row in found:
        if all(abs(row["d"] - k["d"]) > BINS or abs(row["m"] - k["m"]) > BINS / 3 for k in kept):
            kept.append(row)
        if len(kept) == NAMED:
            break
    return {row["strongest"] for row in kept}


def nearest(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """How alike directions are: each latent's cosine with the one nearest to it."""
    run_id = resolve_run(store, run)
    found = query(store, _NEAREST, run_id)
    if not found:
        raise Missing(f"run {run_id} has no cosines of latents")
    rows: Rows = [
        {
            "from": round(row["bin"] * 0.05, 2),
            "to": round(row["bin"] * 0.05 + 0.05, 2),
            "latents": row["latents"],
        }
        for row in found
    ]
    marks = histogram(
        alt.X(
            "from:Q",
            title="cosine with the nearest other decoder row",
            axis=alt.Axis(grid=False),
            scale=alt.Scale(domain=[min(0, rows[0]["from"]), 1]),
        ),
        alt.Y("latents:Q", title="latents"),
        "latents:Q",
    )
    total = sum(row["latents"] for row in rows)
    twins = sum(row["latents"] for row in rows if row["from"] >= 0.9)
    return finished(
        layered(rows, marks).properties(width=WIDTH, height=200),
        Told(
            "nearest",
            "How alike the directions of latents are",
            "Each bar counts living latents by the cosine of their decoder row with the one most "
            "like it; near 1 are duplicates, which split what one latent could hold. It does not "
            "show whether twins fire on the same tokens.",
            f"A histogram of {total:,} latents; {twins:,} have a twin at a cosine of 0.9 or more.",
        ),
    )


def massive_tokens(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """How few tokens hold how much of the variance: massive activations, by the token's text."""
    run_id = resolve_run(store, run)
    found = query_new(
        store, _MASSIVE_TOKENS, run_id,
        lacks=f"run {run_id} has no massive activations, or was made without a map",
    )  # fmt: skip
    called = names_for(row["token"] for row in found)
    kinds = {"share": "of all tokens", "variance": "of the variance"}
    rows: Rows = [
        {
            "token": called[row["token"]],
            "share": digits(row[name]),
            "what": kinds[name],
            "tokens": row["n"],
        }
        for row in found
        for name in kinds
    ]
    colour, shape = coloured("what", list(kinds.values()))
    y = alt.Y("token:N", sort=None, title="token")
    ends = min(row["share"] for row in rows) / 1.5, 1.0
    log = decades(*ends)
    lines = (
        alt.Chart()
        .mark_line(color=QUIET, strokeWidth=1)
        .encode(x=alt.X("share:Q", scale=log), y=y, detail="token:N")
    )
    marks = dots(70).encode(
        x=alt.X("share:Q", scale=log, axis=powers(*ends, "~%", grid=True), title="share"),
        y=y,
        color=colour,
        shape=shape,
        tooltip=["token:N", "what:N", "share:Q", "tokens:Q"],
    )
    chart = layered(rows, lines, marks)
    share, variance = (sum(row[name] for row in found) for name in ("share", "variance"))
    return finished(
        chart.properties(width=WIDTH, height=height(len(found))),
        Told(
            "massive-tokens",
            "Massive activations: few tokens, much of the variance",
            "Tokens whose activation is far from the mean: the share of all tokens that they are, "
            "and the share of the variance that they hold. A long line is a token that leads "
            "errors, maps and clusters. It does not show what the model has them for.",
            f"{len(found)} tokens are {share:.2%} of all and hold {variance:.1%} of the variance.",
        ),
    )


def massive_latents(store: duckdb.DuckDBPyConnection, run: str) -> alt.LayerChart:
    """Latents that answer to massive activations: how strongly they fire there and elsewhere."""
    run_id = resolve_run(store, run)
    found = query_new(
        store, _MASSIVE_LATENTS, run_id,
        lacks=f"run {run_id} has no latents of massive activations, or was made without a map",
    )  # fmt: skip
    called = names_for(f"{row['latent']}  on {row['token']}" for row in found)
    kinds = {"mean_massive": "on massive tokens", "mean_typical": "elsewhere"}
    rows: Rows = [
        {
            "latent": called[f"{row['latent']}  on {row['token']}"],
            "mean activation": digits(row[name]),
            "where": kinds[name],
            "share of pooled": digits(row["share_of_pooled"]),
        }
        for row in found
        for name in kinds
    ]
    colour, shape = coloured("where", list(kinds.values()))
    y = alt.Y("latent:N", sort=None, title="latent")
    known = [row["mean activation"] for row in rows if row["mean activation"]]
    ends = min(known) / 1.3, max(known) * 1.3
    x = alt.X("mean activation:Q", scale=decades(*ends), axis=powers(*ends, "~s", grid=True))
    lines = alt.Chart().mark_line(color=QUIET, strokeWidth=1).encode(x=x, y=y, detail="latent:N")
    marks = dots(70).encode(
        x=x.title("mean activation where it fires"),
        y=y,
        color=colour,
        shape=shape,
        tooltip=["latent:N", "where:N", "mean activation:Q", "share of pooled:Q"],
    )
    top = found[0]
    return finished(
        layered(rows, lines, marks).properties(width=WIDTH, height=height(len(found))),
        Told(
            "massive-latents",
            "Latents that answer to massive activations",
            "How strongly each fires on massive tokens and elsewhere, with the token. Where one is "
            "in a document, it may be much of what pooling sees: the data has each latent's share "
            "of the pooled vector's squared length. It does not show that they mean nothing "
            "elsewhere.",
            f"Latent {top['latent']} fires at {top['mean_massive']:.3g} on massive tokens, and has "
            f"{top['share_of_pooled']:.0%} of the squared length of pooled documents that hold "
            "one.",
        ),
    )
