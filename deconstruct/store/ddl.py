"""SQL that makes the relations of `schema`: tables, views over artifacts, comments, macros."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import duckdb

from deconstruct.artifacts.table import Column, Table
from deconstruct.corpus.tables import DOCUMENT_LABELS, DOCUMENTS
from deconstruct.store.schema import RELATIONS, Relation

HOME_VARIABLE = "deconstruct_home"
"""``SET VARIABLE deconstruct_home = '...'`` makes the views read artifacts under another root:
a folder that was moved, or the same files under ``s3://``."""

PARQUET = "hive_partitioning = false"
"""How the store reads Parquet files: what is in them, and nothing of the folders they lie in."""

MACROS = ("contexts", "interpretation", "labels", "comparisons", "probing", "controls", "runs")
"""Files of macros; those of the first are used by the others."""

_MACRO = re.compile(
    r"((?:^--.*\n)+)CREATE OR REPLACE MACRO (\w+)\(([^)]*)\) AS( TABLE)?", re.MULTILINE
)
EXAMPLE = "Example: "
"""Begins the line of a macro's comment that is a query with it."""
_RESOLVED = re.compile(r"\bresolve_run\((\w+)\)")


def literal(text: str) -> str:
    """A SQL string literal, for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def name(identifier: str) -> str:
    """A quoted SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def create_table(relation: Relation) -> str:
    """The table itself. Only small relations get a primary key: it costs six times the load."""
    lines = [f"{name(c.name)} {c.type}" for c in relation.columns]
    if relation.key and not relation.in_place:
        lines.append(f"PRIMARY KEY ({', '.join(map(name, relation.key))})")
    return f"CREATE TABLE IF NOT EXISTS {name(relation.name)} ({', '.join(lines)})"


Files = Mapping[str, Mapping[str, bool]]
"""Names of a relation's files that some artifact has; with each the optional columns that some of
those have, and whether all have them: what older releases wrote lacks what is newer."""


def create_view(relation: Relation, there: Files) -> str:
    """The view that finds the relation's rows in the artifacts: a view without any is empty."""
    whole = relation.file in there
    parts = [rows_of_files(relation, there)] if whole else []
    if relation.table is DOCUMENT_LABELS and DOCUMENTS.file in there:
        labelled = [column for column in DOCUMENTS.columns if column.name in ("doc_id", "label")]
        rows = (
            f"{_rows(relation, DOCUMENTS, labelled, {})} WHERE (stages.facts -> '$.tasks') IS NULL"
        )
        parts.append(labels_of_documents(f"({rows})"))
    if not parts:
        columns = ", ".join(f"CAST(NULL AS {c.type}) AS {name(c.name)}" for c in relation.columns)
        parts = [f"SELECT {columns} WHERE false"]
    return f"CREATE OR REPLACE VIEW {name(relation.name)} AS {' UNION ALL '.join(parts)}"


def labels_of_documents(documents: str) -> str:
    """Rows of document_labels of corpora with one column of labels, which have no file of them.

    documents: a relation with their run_id, doc_id and label.
    """
    return (
        "SELECT d.run_id, d.doc_id, r.label_column AS task, 'class' AS kind, d.label AS value "
        f"FROM {documents} AS d JOIN runs AS r ON r.run_id = d.run_id "
        "WHERE d.label IS NOT NULL"
    )


def rows_of_files(relation: Relation, there: Files) -> str:
    """A query for the rows in the relation's files.

    Without Hive's partitions: below a folder ``k=32``, 32 would stand in the place of a column k.

    The join on ``filename`` is what makes it cheap: DuckDB leaves out files that don't match
    before it opens them, also where the run is known only while the query runs. A second file is
    joined on the left for the same reason: DuckDB does not move that join before the other.
    """
    table, beside = relation.table, relation.beside
    assert table is not None
    if beside is None or beside.file not in there:
        return _rows(relation, table, relation.columns[1:], there.get(table.file, {}))
    second = [c for c in relation.columns if c.name in {kept.name for kept in beside.columns[1:]}]
    columns = ", ".join(
        f"{'kept' if c in second else 'own'}.{name(c.name)}" for c in relation.columns
    )
    own = [column for column in relation.columns[1:] if column not in second]
    kept = _rows(relation, beside, beside.columns, {})
    return (
        f"SELECT {columns} FROM ({_rows(relation, table, own, there.get(table.file, {}))}) AS own "
        f"LEFT JOIN ({kept}) AS kept ON kept.run_id = own.run_id AND kept.doc_id = own.doc_id"
    )


def _rows(
    relation: Relation, table: Table, columns: Sequence[Column], given: Mapping[str, bool]
) -> str:
    """Columns of one of a relation's files; optional ones that are not ``given`` are null.

    Those come by a join, as DuckDB opens all files where a constant stands among the columns. Where
    some files lack what others have, it opens all for their columns, though not for their rows.
    """
    absent = [column for column in columns if column.optional and column.name not in given]
    wanted = ", ".join(
        f"absent.{name(c.name)}" if c in absent
        else f"CAST(file.{name(c.name)} AS {c.type}) AS {name(c.name)}" if c.stored is not None
        else f"file.{name(c.name)}"
        for c in columns
    )  # fmt: skip
    nulls = ", ".join(f"CAST(NULL AS {c.type}) AS {name(c.name)}" for c in absent)
    none = (
        f" LEFT JOIN (SELECT CAST(NULL AS VARCHAR) AS run_id, {nulls}) AS absent "
        "ON absent.run_id = stages.run_id"
    )
    mixed = any(column.optional and not given.get(column.name, True) for column in columns)
    options = f"{PARQUET}, filename = true{', union_by_name = true' if mixed else ''}"
    stage, file = literal(relation.stage or ""), literal(table.file)
    return (
        f"SELECT stages.run_id, {wanted} "
        f"FROM read_parquet(artifact_glob({stage}, {file}), {options}) AS file "
        f"JOIN stages ON stages.stage = {stage} "
        f"AND file.filename = artifact_root() || '/' || stages.path || '/' || {file}"
        f"{none if absent else ''}"
    )


def comments(relation: Relation, kind: str) -> Iterator[str]:
    """COMMENT statements for the relation (``kind`` is TABLE or VIEW) and its columns."""
    yield f"COMMENT ON {kind} {name(relation.name)} IS {literal(relation.comment)}"
    for column in relation.columns:
        target = f"{name(relation.name)}.{name(column.name)}"
        yield f"COMMENT ON COLUMN {target} IS {literal(column.comment)}"


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables that hold rows of their own; leave those that exist as they are."""
    for relation in RELATIONS:
        if relation.stored:
            connection.execute(create_table(relation))
            execute_all(connection, comments(relation, "TABLE"))


def create_derived(connection: duckdb.DuckDBPyConnection) -> None:
    """Make, or make anew, the views over other relations."""
    for relation in RELATIONS:
        if relation.query:
            connection.execute(f"CREATE OR REPLACE VIEW {name(relation.name)} AS {relation.query}")
            execute_all(connection, comments(relation, "VIEW"))


def create_views(connection: duckdb.DuckDBPyConnection, home: Path) -> None:
    """Make, or make anew, the views: over the artifacts under ``home``, and over relations."""
    root = f"coalesce(getvariable('{HOME_VARIABLE}'), {literal(str(home))})"
    connection.execute(f"CREATE OR REPLACE MACRO artifact_root() AS {root}")
    # A root may hold characters that are wildcards in a glob; a key's first character keeps
    # the partial folders of running stages out.
    connection.execute(
        "CREATE OR REPLACE MACRO artifact_glob(stage, file) AS "
        r"regexp_replace(artifact_root(), '([\[*?])', '[\1]', 'g')"
        " || '/' || stage || '/[0-9a-f]*/' || file"
    )
    for relation in RELATIONS:
        if relation.in_place:
            connection.execute(create_view(relation, _there(connection, relation)))
            execute_all(connection, comments(relation, "VIEW"))
    create_derived(connection)


def _there(connection: duckdb.DuckDBPyConnection, relation: Relation) -> Files:
    found: dict[str, dict[str, bool]] = {}
    for file in relation.files:
        place = [relation.stage, file]
        if not connection.execute(
            "SELECT 1 FROM glob(artifact_glob(?, ?)) LIMIT 1", place
        ).fetchall():
            continue
        found[file] = {}
        if any(column.optional for column in relation.columns) and file == relation.file:
            having = connection.execute(
                "SELECT name, count(*) = max(files) FROM (SELECT name, "
                "count(DISTINCT file_name) OVER () AS files FROM parquet_schema("
                "artifact_glob(?, ?))) GROUP BY name",
                place,
            ).fetchall()
            named = {column.name for column in relation.columns if column.optional}
            found[file] = {str(name): bool(all_have) for name, all_have in having if name in named}
    return found


def create_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """Make, or make anew, the macros of ``macros/*.sql``, of this state of the store."""
    (publication,) = connection.execute(
        "SELECT value FROM meta WHERE name = 'publication'"
    ).fetchall()[0]
    for text in map(_macros, MACROS):
        resolved = _RESOLVED.sub(r"resolve_run(\1, store := :store)", text)
        connection.execute(resolved.replace(":store", literal(str(publication))))
    execute_all(
        connection,
        (
            f"COMMENT ON MACRO {'TABLE ' * one.table}{name(one.name)} IS {literal(one.comment)}"
            for one in macros()
        ),
    )


@dataclass(frozen=True)
class Macro:
    """A macro as its file declares it.

    parameters: with their defaults, as SQL has them. table: whether it answers with rows. comment:
    what stands above it; example: the query among that, empty where it serves other macros alone.
    """

    name: str
    parameters: tuple[str, ...]
    table: bool
    comment: str
    example: str


def macros() -> Iterator[Macro]:
    """All macros, in the order in which they are made."""
    for subject in MACROS:
        for above, called, parameters, table in _MACRO.findall(_macros(subject)):
            lines = [line.removeprefix("--").strip() for line in above.splitlines()]
            told = [line for line in lines if not line.startswith(EXAMPLE)]
            example = [line.removeprefix(EXAMPLE) for line in lines if line.startswith(EXAMPLE)]
            given = tuple(one.strip() for one in parameters.split(",") if one.strip())
            yield Macro(called, given, bool(table), " ".join(told), "".join(example))


def _macros(subject: str) -> str:
    file = resources.files("deconstruct.store").joinpath("macros", f"{subject}.sql")
    return file.read_text(encoding="utf-8")


def execute_all(connection: duckdb.DuckDBPyConnection, statements: Iterator[str]) -> None:
    """Run statements that return nothing."""
    connection.execute(";\n".join(statements))
