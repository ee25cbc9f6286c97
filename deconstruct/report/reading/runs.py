"""Which runs there are, how each is called, and how two of them compare."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import duckdb

from deconstruct.store.headlines import HEADLINES, Headline
from deconstruct.store.query import CALLED, resolve_run

_NAME = f"""coalesce((
    SELECT arg_max({CALLED}, n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id
), name)"""
_RUNS = f"""
SELECT run_id, {_NAME},
    site, architecture, d_sae, documents, fvu_typical, delta_loss, dead_share, probe_accuracy,
    published
FROM runs
ORDER BY (SELECT max(n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id) DESC
"""
_HEADER = f"""
SELECT run_id, {_NAME}, model, source, site, architecture, d_sae, k, documents, tokens,
    label_column, published
FROM runs WHERE run_id = ?
"""
_HEADLINE_METRICS = ["fvu_typical", "fvu", "delta_loss", "kl", "top1_agreement", "l0"]


class RunRow(NamedTuple):
    """A run at a glance, with headline figures as ``runs`` has them."""

    run_id: str
    name: str
    site: str
    architecture: str
    d_sae: int
    documents: int
    fvu_typical: float | None
    delta_loss: float | None
    dead_share: float | None
    probe_accuracy: float | None
    published: datetime


class RunHeader(NamedTuple):
    """What stands above every page of a run."""

    run_id: str
    name: str
    model: str
    source: str
    site: str
    architecture: str
    d_sae: int
    k: int | None
    documents: int
    tokens: int
    label_column: str | None
    published: datetime


class Card(NamedTuple):
    """A headline figure with its 95% interval, where it has one."""

    headline: Headline
    value: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A metric of two runs; difference: of the other and the first, ``paired`` with an interval by
    the documents that both judged."""

    stage: str
    metric: str
    value_a: float | None
    value_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    n: int | None
    p: float | None
    paired: bool


class Match(NamedTuple):
    """A latent and its partner in another run, with the token that each fires on most."""

    latent: int
    other_latent: int
    cosine: float
    correlation: float | None
    top_token: str
    other_token: str


class Lost(NamedTuple):
    """A latent without anything alike in another run. max_cosine: with whatever is most like it."""

    latent: int
    n_fires: int
    max_cosine: float
    top_token: str


def newest(store: duckdb.DuckDBPyConnection) -> list[RunRow]:
    """All runs, the newest first."""
    return [RunRow(*row) for row in store.execute(_RUNS).fetchall()]


def header(store: duckdb.DuckDBPyConnection, run_id: str) -> RunHeader:
    """A run that the store has."""
    [row] = store.execute(_HEADER, [run_id]).fetchall()
    return RunHeader(*row)


def cards(store: duckdb.DuckDBPyConnection, run_id: str) -> list[Card]:
    """The headline figures that a run has, in the order of `HEADLINES`."""
    found = []
    for headline in HEADLINES:
        ends = "NULL, NULL" if headline.table == "cluster_metrics" else "ci_low, ci_high"
        rows = store.execute(headline.select("value", ends), {"run_id": run_id}).fetchall()
        if rows and rows[0][0] is not None:
            found.append(Card(headline, *rows[0]))
    return found


def compared(store: duckdb.DuckDBPyConnection, one: str, other: str) -> list[Difference]:
    """The headline metrics of two runs, then all others, with paired intervals where there are.

    The p-values of headline metrics are corrected for those alone; others for all.
    """
    first = store.execute(
        "FROM compare_runs($a, $b, metrics := $metrics)",
        {"a": one, "b": other, "metrics": _HEADLINE_METRICS},
    ).fetchall()
    rows = [Difference(*row) for row in first]
    return sorted(rows, key=lambda row: _HEADLINE_METRICS.index(row.metric))


def compared_all(store: duckdb.DuckDBPyConnection, one: str, other: str) -> list[Difference]:
    """Every metric of two runs; p-values are corrected for all of them."""
    rows = store.execute("FROM compare_runs($a, $b)", {"a": one, "b": other}).fetchall()
    return [Difference(*row) for row in rows]


def matching(store: duckdb.DuckDBPyConnection, one: str, other: str) -> dict[str, float]:
    """How much of a run's dictionary another has, as ``matching_metrics``; nothing where the two
    were not matched (``deconstruct match``)."""
    rows = store.execute(
        "SELECT metric, value FROM matching_metrics WHERE run_id = ? AND other_run = ? "
        "AND value IS NOT NULL ORDER BY metric",
        [one, other],
    ).fetchall()
    return {str(metric): float(value) for metric, value in rows}


def matched(store: duckdb.DuckDBPyConnection, one: str, other: str, most: int) -> list[Match]:
    """Latents of two runs that were matched, the closest pairs first."""
    rows = store.execute(
        """
SELECT m.latent, m.other_latent, m.cosine, m.correlation, a.top_token, b.top_token
FROM latent_matches AS m
JOIN features AS a ON a.run_id = $one AND a.latent = m.latent
JOIN features AS b ON b.run_id = $other AND b.latent = m.other_latent
WHERE m.run_id = $one AND m.other_run = $other
ORDER BY m.cosine DESC, m.latent LIMIT $most""",
        {"one": one, "other": other, "most": most},
    ).fetchall()
    return [Match(*row) for row in rows]


def lost(store: duckdb.DuckDBPyConnection, one: str, other: str, most: int) -> list[Lost]:
    """Latents of a run that are like nothing in another, those first that fire most."""
    rows = store.execute(
        """
SELECT m.latent, f.n_fires, m.max_cosine, f.top_token
FROM latent_matches AS m JOIN features AS f ON f.run_id = $one AND f.latent = m.latent
WHERE m.run_id = $one AND m.other_run = $other AND m.max_cosine < 0.5
ORDER BY f.n_fires DESC, m.latent LIMIT $most""",
        {"one": one, "other": other, "most": most},
    ).fetchall()
    return [Lost(*row) for row in rows]


def same_runs(store: duckdb.DuckDBPyConnection, run_id: str) -> list[tuple[str, str]]:
    """run_id and name of the other runs of the same model and corpus, the newest first."""
    rows = store.execute(
        f"""
SELECT run_id, {_NAME} FROM runs
WHERE run_id <> $run AND (model_digest, source) IN (
    SELECT (r.model_digest, r.source) FROM runs AS r WHERE r.run_id = $run
) ORDER BY published DESC LIMIT 20""",
        {"run": resolve_run(store, run_id)},
    ).fetchall()
    return [(str(found), str(name)) for found, name in rows]
