"""Rows of the store by the names of their columns."""

from __future__ import annotations

from typing import Any

import duckdb

from deconstruct.store.render import records_of

Record = dict[str, Any]


def records(store: duckdb.DuckDBPyConnection, query: str, **bound: Any) -> list[Record]:
    """The answer to a query, a record per row. bound: its parameters, ``$name`` in the query."""
    return records_of(store.execute(query, bound))


def has(store: duckdb.DuckDBPyConnection, relation: str, run_id: str) -> bool:
    """Whether a run has rows of a relation. relation: one of ours, as the schema names it."""
    query = f'SELECT 1 FROM "{relation}" WHERE run_id = $run_id LIMIT 1'
    try:
        return bool(records(store, query, run_id=run_id))
    except duckdb.CatalogException:  # a store that was exported before there was such a relation
        return False
