"""The prompt of ``deconstruct sql``: history, completion, Ctrl-C, a few dot commands."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, DummyCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output
from rich.console import Console

from deconstruct.common.errors import DeconstructError
from deconstruct.store import pages, render
from deconstruct.store.interrupt import interruptible
from deconstruct.store.query import is_silent, misnamed_runs

KEYWORDS = tuple(
    "SELECT FROM WHERE GROUP BY ORDER LIMIT HAVING JOIN LEFT USING ON AS AND OR NOT IN IS NULL "
    "DISTINCT CASE WHEN THEN ELSE END BETWEEN LIKE ILIKE DESC ASC WITH UNION ALL COUNT SUM AVG "
    "MIN MAX ROUND DESCRIBE SUMMARIZE EXPLAIN QUALIFY FILTER UNNEST COPY TO".split()
)
HELP = """\
A query ends with ';' and may run over several lines. Tab completes tables, columns, macros and
names of runs; up and down go through the history; Ctrl-C stops a query or clears the line.

  .tables           tables and views, with what they hold
  .columns TABLE    the columns of one
  .macros           ready-made questions, as in FROM top_contexts('latest', 812);
  .help             this text
  .quit             leave; so does Ctrl-D"""

_COMMANDS = {
    ".tables": "SELECT table_name, comment FROM ("
    "SELECT table_name, comment FROM duckdb_tables() WHERE database_name = current_database() "
    "UNION ALL SELECT view_name, comment FROM duckdb_views() "
    "WHERE database_name = current_database() AND NOT internal) ORDER BY 1",
    ".columns": "SELECT column_name, data_type, comment FROM duckdb_columns() "
    "WHERE table_name = ? AND database_name = current_database() AND NOT internal "
    "ORDER BY column_index",
    ".macros": "SELECT function_name, array_to_string(parameters, ', ') AS parameters "
    "FROM duckdb_functions() WHERE function_type LIKE '%macro' AND NOT internal ORDER BY 1",
}
_WORD = re.compile(r"[\w.]*$")
_AFTER_FROM = re.compile(r"\b(from|join|describe|summarize)\s+[\w.]*$", re.IGNORECASE)
_STRING = re.compile(r"^(?:[^']*'[^']*')*[^']*'([^']*)$", re.DOTALL)


def history_file() -> Path:
    """Where the prompt keeps what was asked, for the user alone to read.

    Raises ``OSError`` if there can be no such file.
    """
    named = os.environ.get("XDG_STATE_HOME", "")
    state = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    folder = state / "deconstruct"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sql_history"
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise FileExistsError(errno.EEXIST, "no file", str(file))
        if found.st_mode & 0o077:  # others may read what is asked; or the file is another user's
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    return file


def _history() -> History:
    """What was asked before; where that can't be kept, what is asked from now on."""
    try:
        return FileHistory(str(history_file()))
    except OSError:
        return InMemoryHistory()


def _completer(connection: duckdb.DuckDBPyConnection) -> Completer:
    """None of a store that can't say what it holds, or not before the user has enough of it."""
    try:
        return interruptible(connection, lambda: StoreCompleter(connection))
    except (duckdb.Error, KeyboardInterrupt):
        return DummyCompleter()


class StoreCompleter(Completer):
    """Completes what the store holds, in any case of letters.

    After FROM: relations and macros. After ``relation.``: its columns. In a string: names of
    runs and labels. Else columns, macros and keywords.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.columns: dict[str, list[str]] = {}
        for table, column in connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal "
            "ORDER BY table_name, column_index"
        ).fetchall():
            self.columns.setdefault(str(table), []).append(str(column))
        macros = connection.execute(
            "SELECT DISTINCT function_name, function_type FROM duckdb_functions() "
            "WHERE function_type LIKE '%macro' AND NOT internal ORDER BY 1"
        ).fetchall()
        self.table_macros = [f"{name}(" for name, kind in macros if kind == "table_macro"]
        self.macros = [f"{name}(" for name, kind in macros if kind == "macro"]
        values = connection.execute(
            "SELECT name FROM names UNION SELECT run_id FROM runs "
            "UNION SELECT label FROM probe_weights ORDER BY 1"
        ).fetchall()
        self.values = ["latest", *(str(row[0]) for row in values)]

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        string = _STRING.match(before)
        if string:
            yield from _matching(string[1], [v.replace("'", "''") for v in self.values])
            return
        if before.startswith("."):
            yield from _matching(before, [*_COMMANDS, ".help", ".quit"])
            return
        found = _WORD.search(before)
        word = found[0] if found else ""
        table, dot, part = word.rpartition(".")
        if dot:
            yield from _matching(part, self._columns_of(table, document.text))
        elif _AFTER_FROM.search(before):
            yield from _matching(word, [*self.columns, *self.table_macros])
        elif word:
            names = {column: None for columns in self.columns.values() for column in columns}
            yield from _matching(word, [*names, *self.columns, *self.macros, *KEYWORDS])

    def _columns_of(self, table: str, text: str) -> list[str]:
        """Columns of a relation, or of what an alias stands for: ``FROM latents AS l``."""
        if table in self.columns:
            return self.columns[table]
        named = re.findall(rf"\b(\w+)\s+(?:as\s+)?{re.escape(table)}\b", text, re.IGNORECASE)
        return next((self.columns[name] for name in named if name in self.columns), [])


def _matching(word: str, known: list[str]) -> Iterator[Completion]:
    """What a store's writer has named is shown as it is here: so it must be printable."""
    for text in known:
        if text.isprintable() and text.lower().startswith(word.lower()):
            yield Completion(text, start_position=-len(word))


def ask_on(
    connection: duckdb.DuckDBPyConnection,
    console: Console,
    rows: int,
    full: bool,
    source: Input | None = None,
    sink: Output | None = None,
    look: Callable[[str], None] = lambda _: None,
) -> None:
    """Answer queries until the user leaves.

    source, sink: a terminal of another kind, for tests. look: called with each query before it is
    asked; a ``DeconstructError`` that it raises is shown instead.
    """
    session: PromptSession[str] = PromptSession(
        history=_history(),
        completer=_completer(connection),
        complete_while_typing=False,
        multiline=Condition(lambda: not _complete(session.default_buffer.text)),
        prompt_continuation="  ...> ",
        input=source,
        output=sink,
    )
    console.print("Read-only; .help says what there is, Ctrl-D leaves.", style="dim")
    while True:
        try:
            text = session.prompt("sql> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text.rstrip("; ") in (".quit", ".exit"):
            return
        if text:
            _answer(connection, console, text, rows, full, look)


def _complete(text: str) -> bool:
    stripped = text.strip()
    return not stripped or stripped.startswith(".") or stripped.endswith(";")


def _answer(
    connection: duckdb.DuckDBPyConnection,
    console: Console,
    text: str,
    rows: int,
    full: bool,
    look: Callable[[str], None],
) -> None:
    command, _, argument = text.rstrip(";").partition(" ")
    values: list[Any] = [argument.strip()] if command == ".columns" else []
    if text.startswith(".") and command not in _COMMANDS:
        console.print(HELP if command == ".help" else f"no command {command}; .help lists them")
        return

    def work() -> None:
        if command in _COMMANDS:
            render.write_table(connection.execute(_COMMANDS[command], values), console, rows, True)
            return
        look(text)
        for note in misnamed_runs(connection, text):
            console.print(f"note: {note}", style="dim", markup=False)
        for statement in connection.extract_statements(text):
            result = connection.execute(statement)
            if not is_silent(statement):
                render.write_table(result, console, rows, full)

    try:
        interruptible(connection, work)
    except KeyboardInterrupt:
        console.print("interrupted")
    except duckdb.Error as error:
        console.print(f"error: {pages.sentence(error)}", markup=False)
    except DeconstructError as error:
        console.print(f"error: {error}", markup=False)
