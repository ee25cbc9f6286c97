"""``/sql``: any question of the store, in SQL; and its answer as a file.

An address has the query, so that it can be kept and sent on. One that a page of another site leads
to is shown, and not run: whoever wrote it may want this machine to work.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import urlencode

import duckdb
from starlette.responses import Response

from deconstruct.common.errors import DeconstructError
from deconstruct.common.showing import printable
from deconstruct.explorer.asked import Asked, Links, Page
from deconstruct.explorer.downloads import Draft, saved, text
from deconstruct.explorer.questions import LABELS, OTHERS, RUN, asked_of, questions
from deconstruct.report.reading.runs import RunRow, newest
from deconstruct.store import QueryError
from deconstruct.store.describe import columns
from deconstruct.store.pages import sentence
from deconstruct.store.prompt import KEYWORDS
from deconstruct.store.query import is_silent, misnamed_runs, resolve_run
from deconstruct.store.render import cell, names_of, write_csv, write_parquet

ROWS = 100
"""Of a page."""
FARTHEST = 1_000_000
"""Rows that pages reach; files have all."""
LONGEST = 50_000
"""Characters of a query: addresses hold no more."""
WIDEST = 600
"""Characters of a cell."""
BROADEST = 200
"""Columns of a page; files have all."""

_OPTIONS = re.compile(r"[;,.]? (?:[Ww]ith --files|write with --output|The store is written) .*$")
"""What helps on the command line alone."""
_MACROS = """
SELECT function_name, function_type, parameters, comment FROM duckdb_functions()
WHERE NOT internal AND function_type LIKE '%macro' ORDER BY function_name
"""
_BEST = """
SELECT label, arg_max(latent, effect) FROM probe_weights
WHERE run_id = ? AND task = first_task(?) GROUP BY label ORDER BY label
"""


class Answered(NamedTuple):
    """A page of rows. links: by column, where its cells lead. more: whether rows follow."""

    names: list[str]
    rows: list[list[Any]]
    first: int
    more: bool
    seconds: float
    notes: list[str]


class Named(NamedTuple):
    """A macro. call: with its parameters."""

    name: str
    call: str
    of_rows: bool
    told: str


def _sql(asked: Asked) -> Response:
    runs = newest(asked.store)
    run = _run(asked, runs)
    query = asked.word("query").replace("\r\n", "\n")
    page = asked.number("page", 1, 1, FARTHEST // ROWS)
    answered, fault = None, ""
    held = bool(query.strip()) and asked.from_elsewhere
    if query.strip() and not held:
        try:
            answered = _answered(asked, query, page)
        except (DeconstructError, duckdb.Error) as error:
            fault = _sentence(asked, error)
    relations = columns(asked.store)
    macros = _macros(asked.store)
    return asked.page(
        "sql.html", HTTPStatus.BAD_REQUEST if fault else HTTPStatus.OK,
        here="sql", query=query, about=run, runs=runs, page=page, answered=answered, fault=fault,
        held=held,
        asked_often=len(questions()) if run else 0,
        relations=relations, macros=macros, menu=_menu(asked, run, runs), run_links=Links(run),
        known=_known(asked.store, relations, macros, runs),
    )  # fmt: skip


def _run(asked: Asked, runs: list[RunRow]) -> str:
    """The run that questions are put to: the one asked for, or the newest."""
    named = asked.word("run")
    return resolve_run(asked.store, named) if named else runs[0].run_id if runs else ""


@contextmanager
def _begun(
    asked: Asked, query: str
) -> Iterator[tuple[duckdb.DuckDBPyConnection, duckdb.Statement, list[str]]]:
    """A connection of this request alone, on which all statements but the last have been executed;
    that one; and what is to be said of it.

    Raises ``QueryError`` where nothing is asked, ``duckdb.Error`` as DuckDB does.
    """
    if len(query) > LONGEST:
        raise QueryError(f"this query has {len(query):,} characters; write {LONGEST:,} at most")
    with asked.app.stores.apart() as connection:
        asked.queries.attend(connection)
        notes = list(misnamed_runs(connection, query))
        statements = connection.extract_statements(query)
        asking = bool(statements) and not is_silent(statements[-1])
        for statement in statements[:-1] if asking else statements:
            connection.execute(statement)
        if not asking:
            raise QueryError("nothing is asked; end with a query, such as FROM runs")
        yield connection, statements[-1], notes


def _answered(asked: Asked, query: str, page: int) -> Answered:
    began = time.monotonic()
    with _begun(asked, query) as (connection, statement, notes):
        names = names_of(connection.execute(statement))
        left = (page - 1) * ROWS
        while left and (passed := connection.fetchmany(min(left, 10_000))):
            left -= len(passed)
        shown: list[list[Any]] = []
        # One at a time: what is cut of a long cell is gone before the next row comes.
        while len(shown) <= ROWS and (row := connection.fetchone()) is not None:
            shown.append([_shown(value) for value in row[:BROADEST]])
        if len(names) > BROADEST:
            notes.append(
                f"{len(names) - BROADEST:,} columns more than are shown; name those that you want, "
                "or save the answer"
            )
        return Answered(
            names[:BROADEST], shown[:ROWS], (page - 1) * ROWS, len(shown) > ROWS,
            time.monotonic() - began, notes,
        )  # fmt: skip


def _shown(value: Any) -> Any:
    """Numbers and nothing as they are; all else as a text that is not too long."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    text = cell(value[: WIDEST + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= WIDEST else text[:WIDEST] + " …"


def _file(asked: Asked) -> Response:
    kind = asked.word("format", "csv")
    if kind not in _KINDS:
        raise QueryError(f"format = {kind[:40]!r}: csv or parquet")
    query = asked.word("query")
    if asked.from_elsewhere:
        return asked.back(f"/sql?{urlencode({'query': query})}")
    written, media = _KINDS[kind]
    try:
        with _begun(asked, query) as (connection, statement, _):
            return saved(
                f"answer.{kind}", media, partial(written, connection, statement),
                "deconstruct sql ... --output FILE",
            )  # fmt: skip
    except (DeconstructError, duckdb.Error) as error:
        raise QueryError(_sentence(asked, error)) from error


def _csv(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, draft: Draft) -> None:
    stream = text(draft)
    write_csv(connection.execute(statement), stream, safe=True)
    stream.flush()


def _parquet(
    connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, draft: Draft
) -> None:
    relation = connection.sql(statement)
    if relation is None:
        raise QueryError("the last statement has no rows to write; end with a query")
    write_parquet(relation, draft)


_KINDS = {
    "csv": (_csv, "text/csv; charset=utf-8"),
    "parquet": (_parquet, "application/vnd.apache.parquet"),
}


def _sentence(asked: Asked, error: Exception) -> str:
    if isinstance(error, duckdb.InterruptException):
        if asked.queries.stopped:
            raise error  # whoever stopped it says why
        return "the query was stopped"
    told = sentence(error) if isinstance(error, duckdb.Error) else str(error)
    return _OPTIONS.sub("", told)


def _macros(store: duckdb.DuckDBPyConnection) -> list[Named]:
    return [
        Named(name, f"{name}({', '.join(parameters)})", kind == "table_macro", told or "")
        for name, kind, parameters, told in store.execute(_MACROS).fetchall()
    ]


def _menu(
    asked: Asked, run: str, runs: list[RunRow]
) -> list[tuple[str, list[tuple[int, str, str]]]]:
    """By part: number, title and query of each question, put to ``run``."""
    if not run:
        return []
    best = asked.store.execute(_BEST, [run, run]).fetchall()
    others = [one.run_id for one in runs if one.run_id != run] or [run]
    names = {RUN: run} | {name: others[at % len(others)] for at, name in enumerate(OTHERS)}
    names |= dict(zip(LABELS, [label for label, _ in best], strict=False))
    latents = dict(zip(LABELS, [latent for _, latent in best], strict=False))
    return [
        (part, [(one.number, one.title, asked_of(one.query, names, latents)) for one in those])
        for part, those in groupby(questions(), key=lambda one: one.part)
    ]


def _known(
    store: duckdb.DuckDBPyConnection,
    relations: dict[str, list[tuple[str, str, str]]],
    macros: list[Named],
    runs: list[RunRow],
) -> dict[str, Any]:
    """What the editor completes."""
    labels = store.execute("SELECT DISTINCT label FROM probe_weights ORDER BY 1").fetchall()
    values = ["latest", *(one.name for one in runs), *(one.run_id for one in runs)]
    values += [label for (label,) in labels]
    return {
        "relations": {
            name: [column for column, _, _ in those] for name, those in relations.items()
        },
        "tables": [f"{one.name}(" for one in macros if one.of_rows],
        "macros": [f"{one.name}(" for one in macros if not one.of_rows],
        "values": [one for one in dict.fromkeys(values) if printable(one) == one],
        "keywords": list(KEYWORDS),
    }


PAGES = (Page("/sql", _sql), Page("/sql/file", _file))
