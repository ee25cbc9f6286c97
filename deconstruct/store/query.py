"""Opening the store for reading, and finding runs in it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb

from deconstruct.artifacts.objects import shown
from deconstruct.common.errors import DeconstructError, StorageError
from deconstruct.common.paths import absolute
from deconstruct.common.temporary import own_folder
from deconstruct.config import Growth, RunConfig
from deconstruct.store.ddl import HOME_VARIABLE, create_macros, create_views, literal
from deconstruct.store.migrate import check, migrate, publication, version
from deconstruct.store.reading.checks import IN_PLACE, check_files, read_by
from deconstruct.store.reading.files import LOCAL_ROOT, LocalArtifacts, confine, tune
from deconstruct.store.reading.obeyed import take_out
from deconstruct.store.remote import connect_remote, is_remote
from deconstruct.store.rewrite import FILE, REMEDY, copy_database, state
from deconstruct.store.schema import SCHEMA_VERSION

OPEN_ATTEMPTS = 100
REPORTS = "reports"
"""Folder of a data root with a page for each run, and for names."""
CALLED = "n.name || CASE WHEN n.analysis = 'corpus' THEN '' ELSE '/' || n.analysis END"
"""SQL: what a row n of ``names`` calls a run, for people."""

_COMPARED = re.compile(
    r"""\brun_id"?\s*(?:==?|!=|<>|(?:NOT\s+)?IN\s*\()\s*((?:'(?:[^']|'')*'[\s,]*)+)"""
    r"""|('(?:[^']|'')*')\s*(?:==?|!=|<>)\s*(?:\w+\.)?"?run_id\b""",
    re.IGNORECASE,
)
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STRING = re.compile(r"'((?:[^']|'')*)'")


class QueryError(DeconstructError):
    """A question that the store has no answer to; the message says what to ask instead."""


def data_root(home: Path | str | None = None) -> Path:
    """The data root: ``home``, or ``$DECONSTRUCT_HOME``, or ``./data``; made absolute.

    Raises ``StorageError`` for a URL: that can be read, by `open_store`, and no more.
    """
    where = _where(home)
    if is_remote(where):
        raise StorageError(
            f"home {shown(str(where))!r} is a URL, which can only be queried; name a folder of "
            "this machine"
        )
    return absolute(where)


def report_file(root: Path, run_id: str) -> Path:
    """Where the report of a run lies below a data root. Raises ``StorageError`` for a run_id that
    is no name of a file, as a store that others have made may have one."""
    if not _RUN_ID.fullmatch(run_id):
        raise StorageError(
            f"run_id {run_id[:60]!r} is none that a publish gives, and no name of a "
            "file; look at the store with 'deconstruct sql', or name the file with --output"
        )
    return root / REPORTS / f"{run_id}.html"


def _where(home: Path | str | None) -> Path | str:
    return home or os.environ.get("DECONSTRUCT_HOME") or "data"


def open_store(
    home: Path | str | None = None,
    *,
    files: bool = True,
    verify: bool | None = None,
    limits: Mapping[str, str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A read-only connection to the store: a snapshot that later publishes don't change.

    ``home`` as in `data_root`, or a URL (`remote`). A folder that was moved since the last
    publish works too. If another program has the store open for writing, or it is of an older
    release, a private copy is opened. Where this process still holds an earlier snapshot, or
    ``files`` is false, the store is attached to a connection of its own, and cursors of that need
    ``USE deconstruct``.

    files: whether queries reach other files than the store's own. If not, they read those alone,
    write nowhere (nor spill to disk), load no extension, and change no setting but of how answers
    look: for SQL that others write. verify: True digests every file that the views read; None
    those that have changed, or were not looked at, since a week; False none. Files under a URL are
    not looked at. limits: further settings of DuckDB for a store of this machine (memory_limit,
    threads), which a confined connection can't be given later.

    Raises ``StorageError`` if there is no store, if it is of a newer release, or if a file is
    damaged.
    """
    where = _where(home)
    if is_remote(where):
        connection, root = connect_remote(str(where), files)
        check(version(connection), shown(str(where)))
    else:
        connection, root = _open_local(data_root(where), files, limits or {})
        if verify is not False:
            check_files(connection, data_root(where), IN_PLACE, thorough=verify is True)
    # Only for what lies elsewhere than when it was published: the variable is also read by the
    # views of other stores that are attached.
    if _root_of(connection) != root:
        connection.execute(f"SET VARIABLE {HOME_VARIABLE} = ?", [root])
    return connection


def _root_of(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Where the store's views read; None in an exported file, which has none over artifacts."""
    try:
        ((root,),) = connection.execute("SELECT artifact_root()").fetchall()
    except duckdb.CatalogException:
        return None
    return str(root)


def _open_local(
    root: Path, files: bool, limits: Mapping[str, str]
) -> tuple[duckdb.DuckDBPyConnection, str]:
    store = root / FILE
    if not store.exists():
        raise StorageError(
            f"home {str(root)!r} has no store yet; fill it with 'deconstruct run', or name "
            "another with --home or DECONSTRUCT_HOME"
        )
    try:
        connection = _opened(store, root, files, limits)
        found = version(connection)
        check(found, str(store))
        if found < SCHEMA_VERSION:
            connection.close()
            connection = _private_copy(store, root, files, limits)
    except duckdb.IOException as error:
        if "lock" not in str(error):
            raise StorageError(_unreadable(store, error)) from error
        connection = _private_copy(store, root, files, limits)
    except duckdb.Error as error:
        raise StorageError(_unreadable(store, error)) from error
    return connection, str(root) if files else LOCAL_ROOT


def _opened(
    store: Path, root: Path, files: bool, limits: Mapping[str, str]
) -> duckdb.DuckDBPyConnection:
    """A connection to a store; without ``files``, it is confined before the first query."""
    connection = _connect(store, files, limits)
    tune(connection)
    if not files:
        connection.register_filesystem(LocalArtifacts(root))
        confine(connection, LOCAL_ROOT)
    return connection


def resolve_run(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    """The run_id that ``run`` means: an id, the beginning of one, a name, name@site, either with
    /analysis, or latest."""
    try:
        rows = connection.execute("SELECT resolve_run(?)", [run]).fetchall()
    except duckdb.InvalidInputException as error:
        known = connection.execute(
            f"SELECT run_id || ' (' || {CALLED} || ')' FROM names AS n "
            "ORDER BY last_execution DESC LIMIT 5"
        ).fetchall()
        listed = ", ".join(str(row[0]) for row in known) or "none"
        message = str(error).split("; see SELECT")[0].removeprefix("Invalid Input Error: ")
        raise QueryError(f"{message}; the newest are {listed}") from error
    return str(rows[0][0])


def stage_keys(connection: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, str]:
    """The key of each stage's artifact of a run."""
    found = connection.execute("SELECT stage, key FROM stages WHERE run_id = ?", [run_id])
    return dict(found.fetchall())


def executed(home: Path | str | None, run: str) -> tuple[RunConfig, Growth]:
    """Configuration and growth that a run of the store was executed with last."""
    with open_store(home, files=False, verify=False) as connection:
        [(config, growth)] = connection.execute(
            "SELECT config, growth FROM executions WHERE run_id = ? "
            "ORDER BY execution DESC LIMIT 1",
            [resolve_run(connection, run)],
        ).fetchall()
    return RunConfig.model_validate_json(config), growth or "anew"


def check_query(
    connection: duckdb.DuckDBPyConnection,
    home: Path | str | None,
    text: str,
    *,
    run_id: str | None = None,
    verify: bool | None = None,
) -> None:
    """Raise ``StorageError`` if a file that a query may read is damaged.

    home: of the store that ``connection`` is to. run_id: of whose rows alone it reads. verify: as
    in `open_store`.
    """
    where = _where(home)
    if is_remote(where):
        if verify:
            raise StorageError(
                f"home {shown(str(where))!r} is a URL, whose files are not looked at; leave "
                "--verify out, or use it where they lie on a disk"
            )
        return
    if verify is not False:
        relations = read_by(connection, text)
        thorough = verify is True
        check_files(connection, data_root(where), relations, run_id=run_id, thorough=thorough)


def gives_rows(statement: duckdb.Statement) -> bool:
    """Whether a statement is a question, rather than a setting or something to be done."""
    expected = statement.expected_result_type
    return statement.type is duckdb.StatementType.MULTI or (
        expected == [duckdb.ExpectedResultType.QUERY_RESULT]
    )


def is_silent(statement: duckdb.Statement) -> bool:
    """Whether a statement has no result at all, as SET has none."""
    return bool(statement.expected_result_type == [duckdb.ExpectedResultType.NOTHING])


def misnamed_runs(connection: duckdb.DuckDBPyConnection, text: str) -> Iterator[str]:
    """A sentence for each run that a query compares ``run_id`` with but which is no run_id.

    ``run_id = 'latest'`` is good SQL that no row answers to.
    """
    compared = [run for found in _COMPARED.findall(text) for run in _STRING.findall("".join(found))]
    for run in dict.fromkeys(compared):
        named = run.replace("''", "'")
        try:
            known = connection.execute("SELECT 1 FROM runs WHERE run_id = ?", [named]).fetchall()
            if not known:
                resolve_run(connection, named)
                yield f"no run_id is '{run}'; write resolve_run('{run}') in the place of '{run}'"
        except QueryError as error:
            yield str(error)
        except duckdb.Error:  # the query is about another database
            return


def _connect(store: Path, files: bool, limits: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """DuckDB opens a file more than once by its name: a publish between would mix two files."""
    for _ in range(OPEN_ATTEMPTS):
        before = state(store)
        try:
            connection = _connect_once(store, files, limits)
        except duckdb.Error:
            if state(store) == before:
                raise
            continue
        if state(store) == before:
            return connection
        connection.close()
    raise StorageError(f"store {store} is being replaced all the time; try again in a while")


def _connect_once(store: Path, files: bool, limits: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    # By default DuckDB spills beside the file, where a reader may have no right to write.
    settings = {"temp_directory": str(own_folder() / "spill") if files else "", **limits}
    attached = duckdb.connect(config=dict(settings))
    attached.execute(f"ATTACH {literal(str(store))} AS deconstruct (READ_ONLY)")
    attached.execute("USE deconstruct")
    if not files:  # what it may not do, no other connection to the same database could
        return attached
    connection = duckdb.connect(store, read_only=True, config=dict(settings))
    # DuckDB gives a process that has a path open the same database again, although the file of
    # that name is another by now.
    if publication(connection) == publication(attached):
        attached.close()
        return connection
    connection.close()
    return attached


def _private_copy(
    store: Path, root: Path, files: bool, limits: Mapping[str, str]
) -> duckdb.DuckDBPyConnection:
    with tempfile.TemporaryDirectory(dir=own_folder()) as folder:
        copy = Path(folder) / FILE
        copy_database(store, copy)
        with duckdb.connect(copy) as connection:
            take_out(connection)
            migrate(connection, str(store))
            create_views(connection, store.parent)
            create_macros(connection)
        return _opened(copy, root, files, limits)  # the open file outlives its name


def _unreadable(store: Path, error: duckdb.Error) -> str:
    return f"store {store} can't be read: {str(error).splitlines()[0]}; {REMEDY}"
