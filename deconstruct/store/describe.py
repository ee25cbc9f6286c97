"""The store described from itself: its relations, their columns, and how they hang together."""

from __future__ import annotations

import re

import duckdb

from deconstruct.store import ddl
from deconstruct.store.schema import RELATIONS

INTRODUCTION = """\
# The store's tables

Made from the store itself by `python docs/refresh.py`; the same words are `COMMENT`s in the file
(`.tables` and `.columns` of `deconstruct sql`, `FROM duckdb_columns()`). Schema version {version}.

Relations marked *view* lie in the Parquet files of the artifacts and are never copied; an exported
file holds them as tables. A row is found by the columns in the key, together.
"""

MACROS = """\
# The store's macros

Questions that come up every day, each answered by one call, here and in any DuckDB shell: they are
stored in the file (`.macros` of `deconstruct sql`). Made from the store itself by
`python docs/refresh.py`.

`run` is a run_id, the beginning of one, a name, `'<name>@<site>'` or `'latest'`. A parameter with
`:=` may be left out, and is named where it is given: `n := 5`. [sql.md](sql.md) has questions with
their answers, [schema.md](schema.md) the relations that macros read.
"""

IDENTITIES = ("runs", "documents", "tokens", "features", "cluster_summary")
"""Relations whose rows are things; the others tell something about them."""

_KEYS = {relation.name: relation.key for relation in RELATIONS}


def columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str, str]]]:
    """Relation -> its columns: name, type, comment, as the open store has them."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for table, column, kind, comment in connection.execute(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE NOT internal AND database_name = current_database() "
        "ORDER BY table_name, column_index"
    ).fetchall():
        found.setdefault(str(table), []).append((str(column), str(kind), str(comment)))
    return {name: found[name] for name in _KEYS if name in found}


def references(
    relations: dict[str, list[tuple[str, str, str]]],
) -> list[tuple[str, str, tuple[str, ...]]]:
    """(child, parent, columns): the child has all columns of the parent's key.

    Where one parent leads to another, the nearer stands for both: a firing is of a token, and
    through that of a document and of a run.
    """
    found = []
    for child, described in relations.items():
        has = {column for column, _, _ in described}
        parents = [p for p in IDENTITIES if p != child and has.issuperset(_KEYS[p])]
        for parent in parents:
            if not any(set(_KEYS[parent]) < set(_KEYS[other]) for other in parents):
                found.append((child, parent, _KEYS[parent]))
    return found


def er_diagram(connection: duckdb.DuckDBPyConnection) -> str:
    """Mermaid text of an entity-relationship diagram of the open store."""
    relations = columns(connection)
    lines = ["erDiagram"]
    for child, parent, key in references(relations):
        one = "o|" if set(_KEYS[child]) == set(key) else "o{"
        lines.append(f'    {parent} ||--{one} {child} : "{", ".join(key)}"')
    for name, described in relations.items():
        lines.append(f"    {name} {{")
        for column, kind, _ in described:
            plain = re.sub(r"\W+", "_", kind.replace("[]", "_list"))
            lines.append(f"        {plain} {column}{' PK' if column in _KEYS[name] else ''}")
        lines.append("    }")
    return "\n".join(lines)


def schema_page(connection: duckdb.DuckDBPyConnection) -> str:
    """Markdown of ``docs/schema.md``: the diagram, and a table of columns for each relation."""
    version = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchall()[
        0
    ][0]
    comments = {
        str(name): (str(kind), str(comment))
        for name, kind, comment in connection.execute(
            "SELECT table_name, 'table', comment FROM duckdb_tables() "
            "WHERE database_name = current_database() UNION ALL "
            "SELECT view_name, 'view', comment FROM duckdb_views() WHERE NOT internal"
        ).fetchall()
    }
    page = [INTRODUCTION.format(version=version), "```mermaid", er_diagram(connection), "```", ""]
    for name, described in columns(connection).items():
        kind, comment = comments[name]
        key = f" Key: {', '.join(f'`{c}`' for c in _KEYS[name])}." if _KEYS[name] else ""
        page += [f"## {name}{' (view)' if kind == 'view' else ''}", "", f"{comment}{key}", ""]
        page += ["| column | type | meaning |", "|---|---|---|"]
        page += [f"| `{c}` | {t} | {_markdown(m)} |" for c, t, m in described]
        page.append("")
    return "\n".join(page)


def macros_page(connection: duckdb.DuckDBPyConnection) -> str:
    """Markdown of ``docs/macros.md``: each macro with parameters, columns and an example."""
    known = dict(
        connection.execute(
            "SELECT function_name, comment FROM duckdb_functions() "
            "WHERE function_type LIKE '%macro' AND NOT internal"
        ).fetchall()
    )
    page, helpers = [MACROS], []
    for macro in ddl.macros():
        called = f"{macro.name}({', '.join(macro.parameters)})"
        if not macro.example:
            helpers.append(f"- `{called}`: {_markdown(known[macro.name])}")
            continue
        page += [f"## {macro.name}", "", _markdown(known[macro.name]), ""]
        page += ["```sql", f"{called}", "```", ""]
        described = connection.execute(f"DESCRIBE {macro.example}").fetchall()
        if macro.table:
            page += ["| column | type |", "|---|---|"]
            page += [f"| `{column}` | {kind} |" for column, kind, *_ in described]
            page.append("")
        page += [f"For example `{macro.example}`.", ""]
    return "\n".join([*page, "## What these are made of", "", *helpers, ""])


def _markdown(comment: str) -> str:
    """A comment of the store as a page shows it, in a cell too: whole."""
    return comment.replace("<", "&lt;").replace("|", "\\|")
