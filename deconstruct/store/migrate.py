"""Schema versions: an older store is brought up to date, a newer one is refused with a sentence."""

from __future__ import annotations

from importlib import metadata

import duckdb

from deconstruct.errors import StorageError
from deconstruct.store.ddl import create_tables
from deconstruct.store.schema import SCHEMA_VERSION

MIGRATIONS: dict[int, str] = {}
"""Version -> SQL that turns the tables of the version before it into that version's.

Only tables need an entry: views, comments and macros are made anew by every publish."""


def version(connection: duckdb.DuckDBPyConnection) -> int:
    """Schema version of an open store; 0 for a file without tables of ours."""
    row = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'meta' AND NOT internal"
    ).fetchone()
    if row is None or not row[0]:
        return 0
    row = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def check(found: int, where: str) -> None:
    """Raise ``StorageError`` if a store's version is newer than this release knows."""
    if found > SCHEMA_VERSION:
        raise StorageError(
            f"{where} was written by a newer release of Deconstruct (schema {found}; this one "
            f"knows {SCHEMA_VERSION}); upgrade with pip install -U deconstruct"
        )


def migrate(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    """Make the tables of an empty file, or bring those of an older release up to date."""
    found = version(connection)
    check(found, where)
    for step in range(found + 1, SCHEMA_VERSION + 1):
        if found and step in MIGRATIONS:
            connection.execute(MIGRATIONS[step])
    create_tables(connection)
    facts = {"schema_version": str(SCHEMA_VERSION), "deconstruct": metadata.version("deconstruct")}
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(facts.items()))
