"""What the pages ``runs``, ``show`` and ``latent`` show, as one object for programs.

Its names are those of the store's relations and macros, and so are the columns of every record:
docs/schema.md and docs/macros.md tell what each means. ``run_id`` is said once. Numbers have all
their digits; what is not known, and what is no number (NaN), is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb

from deconstruct.store.pages import check_latent
from deconstruct.store.query import CALLED
from deconstruct.store.remove import Garbage
from deconstruct.store.render import records_of

Record = dict[str, Any]

_RUN = f"""
SELECT runs.*, (
    SELECT list({CALLED} ORDER BY n.last_execution DESC) FROM names AS n
    WHERE n.run_id = runs.run_id
) AS names
FROM runs
"""

_NEWEST = f"""{_RUN}
ORDER BY (SELECT max(n.last_execution) FROM names AS n WHERE n.run_id = runs.run_id) DESC LIMIT $n
"""

_SHOWN = {
    "stages": "FROM stages WHERE run_id = $run ORDER BY ordinal",
    "sae_metrics": "FROM sae_metrics WHERE run_id = $run ORDER BY text <> 'own', text, metric",
    "probes": "FROM probes WHERE run_id = $run AND label IS NULL "
    "ORDER BY task, metric, representation, k NULLS FIRST",
    "drift": "FROM drift WHERE run_id = $run ORDER BY subject, metric",
    "latent_drift": "FROM latent_drift WHERE run_id = $run "
    "ORDER BY abs(log2_ratio) DESC, latent LIMIT 5",
    "cluster_metrics": "FROM cluster_metrics WHERE run_id = $run "
    "ORDER BY representation, kind, metric",
    "cluster_curve": "FROM cluster_curve WHERE run_id = $run ORDER BY k",
    "cluster_summary": "FROM cluster_summary WHERE run_id = $run ORDER BY cluster",
}
"""Relation -> the rows that `deconstruct.store.pages.show` shows of it."""

_LATENT = {
    "top_tokens": "FROM top_tokens($run, $latent)",
    "label_enrichment": "FROM label_enrichment($run) WHERE latent = $latent AND p_corrected < 0.05 "
    "AND lift_train > 1 ORDER BY low_train DESC",
    "feature_logits": "FROM feature_logits WHERE run_id = $run AND latent = $latent "
    "ORDER BY direction, rank",
    "top_contexts": "FROM top_contexts($run, $latent, n := $n, width := $width)",
}
"""Relation or macro -> the rows that `deconstruct.store.pages.latent` shows of it."""


def runs(connection: duckdb.DuckDBPyConnection, limit: int) -> Record:
    """``runs``: the newest runs, each with its ``names``, the newest first."""
    return {"runs": _records(connection, _NEWEST, {"n": limit})}


def show(connection: duckdb.DuckDBPyConnection, run_id: str) -> Record:
    """``run``, and the rows of one run, by relation."""
    of = {"run": run_id}
    [run] = _records(connection, f"{_RUN} WHERE run_id = $run", of)
    return {"run": run, **_all(connection, _SHOWN, of)}


def latent(
    connection: duckdb.DuckDBPyConnection, run_id: str, number: int, contexts: int, width: int
) -> Record:
    """``run_id``, ``features`` (one record), and the rows of one latent, by relation or macro.

    Raises ``QueryError`` if the run has no such latent.
    """
    check_latent(connection, run_id, number)
    of = {"run": run_id, "latent": number}
    query = "FROM features WHERE run_id = $run AND latent = $latent"
    [features] = _all(connection, {"features": query}, of)["features"] or [{"latent": number}]
    place = {**of, "n": contexts, "width": width}
    return {"run_id": run_id, "features": features, **_all(connection, _LATENT, place)}


def garbage(things: Sequence[Garbage], removed: bool, fresh_bytes: int) -> Record:
    """``garbage``: folders that can go or, if ``removed``, are gone; ``bytes`` of all of them.

    fresh_bytes: of what no run needs either, but was used of late.
    """
    found = [
        {
            "kind": thing.kind,
            "stage": thing.stage,
            "key": thing.key,
            "path": str(thing.path),
            "bytes": thing.bytes,
            "used": datetime.fromtimestamp(thing.used, UTC).isoformat(),
        }
        for thing in things
    ]
    total = sum(thing.bytes for thing in things)
    return {"garbage": found, "removed": removed, "bytes": total, "fresh_bytes": fresh_bytes}


def _all(
    connection: duckdb.DuckDBPyConnection, queries: Mapping[str, str], values: Mapping[str, Any]
) -> Record:
    return {
        name: [
            {column: value for column, value in row.items() if column != "run_id"}
            for row in _records(connection, query, values)
        ]
        for name, query in queries.items()
    }


def _records(
    connection: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any]
) -> list[Record]:
    used = {name: value for name, value in values.items() if f"${name}" in query}
    return records_of(connection.execute(query, used))
