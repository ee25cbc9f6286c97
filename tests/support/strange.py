"""Strange stores: what damaged, foreign or unlucky runs leave in columns that are no keys."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import duckdb

from deconstruct.store.schema import RELATIONS

NUMBERS = ("NULL", "'nan'::DOUBLE", "'inf'::DOUBLE", "'-inf'::DOUBLE", "1e300", "-1e300", "0",
           "-1", "-7.5", "1e-300", "4294967295")  # fmt: skip
TEXTS = ("NULL", "''", "'others'", "'none'", "'other labels'", "'(no label)'", "repeat('é', 3000)")
LISTS = ("NULL", "[]")
KEPT = ("meta", "executions", "names")
"""What a store is, and how it is called: no run's own."""
ROWS = {"runs": ("run_id", "name", "config", "last_config", "published", "started", "model_digest"),
        "stages": ("run_id", "stage", "key")}  # fmt: skip
"""Columns without which nothing would be found at all."""


def spoil(file: Path, seed: int) -> list[str]:
    """Put strange values into some rows of some columns of a store, and take some rows out, as
    ``seed`` has it; the statements."""
    draw = random.Random(seed)
    done = []
    rate = draw.choice((0.05, 0.2, 0.5))
    with duckdb.connect(file) as store:
        for relation in RELATIONS:
            if not relation.stored or relation.name in KEPT:
                continue
            for column in relation.columns:
                if column.name in (*relation.key, *ROWS.get(relation.name, ("run_id",))):
                    continue
                if draw.random() > rate:
                    continue
                kinds = LISTS if "[]" in column.type else TEXTS if "CHAR" in column.type else (
                    NUMBERS if column.type != "BOOLEAN" else ("NULL", "true", "false"))  # fmt: skip
                where = draw.choice(("true", "hash(rowid) % 2 = 0", "hash(rowid) % 5 = 0"))
                done += _told(
                    store,
                    f'UPDATE "{relation.name}" SET "{column.name}" = {draw.choice(kinds)} '
                    f"WHERE {where}",
                )
            if draw.random() < rate / 2 and relation.name != "runs":
                done += _told(store, f'DELETE FROM "{relation.name}" WHERE hash(rowid) % 3 = 0')
    return done


def _told(store: duckdb.DuckDBPyConnection, statement: str) -> list[str]:
    with suppress(duckdb.ConversionException, duckdb.ConstraintException, duckdb.BinderException):
        store.execute(statement)
        return [statement]
    return []
