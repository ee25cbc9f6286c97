"""Which files a query reads, and whether they are sound.

DuckDB does not check the checksums of Parquet's pages: a flipped bit is another number. So before
a query is asked, the files of the views that it names, also by macros, are looked at
(`artifacts.looks`). Which runs' rows it will read DuckDB finds while it runs; so all
runs' files are looked at, unless the caller knows the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from deconstruct.artifacts import Artifact
from deconstruct.artifacts.looks import Looks, Place
from deconstruct.common.errors import StorageError
from deconstruct.store.schema import RELATIONS, Relation

IN_PLACE = tuple(relation for relation in RELATIONS if relation.in_place)
"""The views over files of artifacts."""

_ANY_FILE = re.compile(r"^(?:read_\w+|parquet_\w+|query|query_table)$|\.parquet")
"""Names of what reads files or relations that no other name in the query need tell of."""

SHOWN = 3
"""Runs that a sentence names of those with the same artifact."""


def read_by(connection: duckdb.DuckDBPyConnection, text: str) -> list[Relation]:
    """The views over files that a query may read: by name, or through macros and views of others.

    Rather one too many: of what DuckDB can't take apart (all but SELECT), every word counts.
    """
    waiting = _names(connection, text)
    if not waiting:  # the list of all macros takes 20 ms
        return []
    bodies: dict[str, list[str]] = {}
    for name, body in connection.execute(
        "SELECT function_name, macro_definition FROM duckdb_functions() "
        "WHERE NOT internal AND macro_definition IS NOT NULL "
        "UNION ALL SELECT view_name, sql FROM duckdb_views() WHERE NOT internal AND temporary"
    ).fetchall():
        bodies.setdefault(str(name).lower(), []).append(str(body))
    known: set[str] = set()
    while waiting:
        if any(map(_ANY_FILE.search, waiting)):
            return list(IN_PLACE)
        known |= waiting
        read = [body for name in waiting for body in bodies.get(name, ())]
        waiting = set().union(*(_names(connection, body) for body in read)) - known
    return [relation for relation in IN_PLACE if relation.name in known]


def _names(connection: duckdb.DuckDBPyConnection, text: str) -> set[str]:
    """Names of the relations and functions in a query, or in an expression; in small letters."""
    for query in (text, f"SELECT {text}"):
        ((parsed,),) = connection.execute("SELECT json_serialize_sql($1)", [query]).fetchall()
        tree = json.loads(parsed)
        if not tree["error"]:
            return set(_named(tree))
    words = re.findall(r"[\w.]+", text.lower())
    return {*words, *(part for word in words for part in word.split("."))}


def _named(tree: Any) -> Iterator[str]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list):
            yield from _named(value)
        elif key in ("table_name", "function_name"):
            yield str(value).lower()


def check_files(
    connection: duckdb.DuckDBPyConnection,
    root: Path,
    relations: Collection[Relation],
    *,
    run_id: str | None = None,
    thorough: bool = False,
) -> None:
    """Raise ``StorageError`` if a file with the relations' rows, of a run or of all, is damaged.

    thorough: digest all of them, also those that were looked at of late.
    """
    if not relations:
        return
    views = {str(name) for (name,) in connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT temporary"
    ).fetchall()}  # fmt: skip
    users = users_of(connection, run_id)
    places = [
        Place(stage, key, file)
        for stage, key in users
        for relation in relations
        if relation.stage == stage and relation.name in views
        for file in relation.files
    ]
    faults = Looks(root).faults(places, thorough=thorough)
    if faults:
        what = "; ".join(clauses(faults, users))
        raise StorageError(f"{what}; {remedy(faults, users)}, --no-verify reads it as it is")


def check_artifacts(root: Path, artifacts: Iterable[Artifact]) -> None:
    """Raise ``StorageError`` if a file of them whose rows the store has, or reads, is damaged."""
    places = [
        Place(artifact.stage, artifact.key, file)
        for artifact in artifacts
        for relation in RELATIONS
        if relation.stage == artifact.stage
        for file in relation.files
    ]
    faults = Looks(root).faults(places)
    if faults:
        raise StorageError(f"{'; '.join(clauses(faults, {}))}; {remedy(faults, {})}")


Users = Mapping[tuple[str, str], Sequence[tuple[str, str]]]
"""(stage, key) of an artifact -> run_id and name of the runs that are made of it, newest first."""


def remedy(faults: Mapping[Place, str], users: Users) -> str:
    """The commands that remake damaged files."""
    runs = {users[place[:2]][0][0]: None for place in faults if place[:2] in users}
    again = " and ".join(f"'deconstruct run --again {run_id}'" for run_id in list(runs)[:SHOWN])
    return f"{again or 'running it again'} remakes what is damaged"


def clauses(faults: Mapping[Place, str], users: Users) -> list[str]:
    """A clause for each file: what is wrong with it, and whose it is."""
    found = []
    for place, what in sorted(faults.items()):
        runs = users.get((place.stage, place.key), ())
        names = ", ".join(f"{name} ({run_id})" for run_id, name in runs[:SHOWN])
        more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
        found.append(f"{place} is {what}" + (f", of run {names}{more}" if names else ""))
    return found


def users_of(connection: duckdb.DuckDBPyConnection, run_id: str | None = None) -> Users:
    """The artifacts of a run, or of all, and the runs that are made of each."""
    users: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for stage, path, run, name in connection.execute(
        "SELECT stage, path, run_id, name FROM stages JOIN runs USING (run_id) "
        "WHERE $run IS NULL OR run_id = $run ORDER BY runs.published DESC",
        {"run": run_id},
    ).fetchall():
        users.setdefault((str(stage), str(path).partition("/")[2]), []).append(
            (str(run), str(name))
        )
    return users
