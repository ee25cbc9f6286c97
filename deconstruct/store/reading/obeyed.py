"""What of a store's own SQL is obeyed: it may be somebody else's work.

A DuckDB file holds macros, views and triggers beside its rows, and they decide what a query does: a
macro may take the name of any function or operator, `duckdb_tables` and `=` among them, and reach
all that the connection may (write a log into any folder, ask a server for an extension). So who
only reads is confined (`files.confine`) before the first query, and who writes takes out first what
would be asked in the place of our own.
"""

from __future__ import annotations

import duckdb

from deconstruct.store.ddl import macros, name
from deconstruct.store.schema import RELATIONS

OURS = frozenset({"artifact_root", "artifact_glob"} | {macro.name for macro in macros()})
"""The macros that every publish makes anew."""

_TRIGGERS = "SELECT schema_name, table_name, trigger_name FROM system.main.duckdb_triggers()"
_FUNCTIONS = (
    "SELECT schema_name, function_name, function_type, internal FROM system.main.duckdb_functions()"
)
_VIEWS = "SELECT schema_name, view_name, internal FROM system.main.duckdb_views()"


def take_out(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop what a store has in the place of DuckDB's functions, or of our relations and macros.

    Those of ours are to be made anew then (`create_tables`, `create_views`, `create_macros`); all
    other views and macros, the notes of a user, stay. The one database attached is to be writable.
    """
    # No condition in SQL: a macro may stand for the operator, until it is dropped here.
    for schema, table, trigger in connection.execute(_TRIGGERS).fetchall():
        connection.execute(f"DROP TRIGGER {name(trigger)} ON {name(schema)}.{name(table)}")
    functions = connection.execute(_FUNCTIONS).fetchall()
    taken = {str(called).lower() for _, called, _, internal in functions if internal} | OURS
    for schema, called, kind in {row[:3] for row in functions if not row[3]}:
        if str(called).lower() in taken:
            what = "MACRO TABLE" if kind == "table_macro" else "MACRO"
            connection.execute(f"DROP {what} {name(schema)}.{name(called)}")
    relations = {relation.name for relation in RELATIONS}
    for schema, called, internal in connection.execute(_VIEWS).fetchall():
        if not internal and str(called).lower() in relations:
            connection.execute(f"DROP VIEW {name(schema)}.{name(called)}")
