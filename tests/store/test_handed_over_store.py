"""A store of somebody else: its macros, views and triggers do nothing beyond it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest
from support.store_artifacts import Planted
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.common.errors import DeconstructError
from deconstruct.store import open_store, publish
from deconstruct.store.rewrite import FILE

TwoRuns = tuple[Path, Planted, Planted]

WRITES = "enable_logging(level := 'debug', storage := 'file', storage_path := '{mark}')"
"""A table function that makes a folder with a log in it, wherever it is told to."""

HOSTILE = {
    "our macro": ["CREATE OR REPLACE MACRO artifact_root() AS (SELECT '' FROM {writes})"],
    "our macro of runs": ["CREATE OR REPLACE MACRO resolve_run(a) AS (SELECT '' FROM {writes})"],
    "a view for a table": [
        "ALTER TABLE names RENAME TO names_2",
        "CREATE VIEW names AS FROM names_2 WHERE (SELECT count(*) FROM {writes}) >= 0",
    ],
    "a function of DuckDB": [
        "CREATE MACRO duckdb_tables() AS TABLE "
        "SELECT 'meta' AS table_name, 'deconstruct' AS database_name FROM {writes}"
    ],
    "an aggregate": ["CREATE MACRO max(a) AS (SELECT 1 FROM {writes})"],
    "an operator": ["CREATE MACRO \"||\"(a, b) AS (SELECT 'x' FROM {writes})"],
    "a trigger": [
        f"CREATE TRIGGER {table}_{what} AFTER {what} ON {table} FOR EACH STATEMENT "
        "INSERT INTO meta SELECT 'a' || random(), 'b' FROM {writes}"
        for table in ("runs", "names", "executions", "stages")
        for what in ("INSERT", "DELETE")
    ],
}  # fmt: skip
"""Statements with which somebody has changed a store, by what they stand in the place of."""

COMMANDS = (
    ("runs",),
    ("show", "latest"),
    ("show", "demo", "--format", "json"),
    ("latent", "demo", "7"),
    ("sql", "FROM runs"),
    ("sql", "FROM top_contexts('demo', 7)"),
    ("verify",),
    ("export", "demo", "{out}/exported.duckdb"),
    ("runs", "rm", "other"),
    ("gc", "--delete", "--unused-hours", "0"),
)


def in_storage_2(store: Path) -> None:
    """Have a file in the storage of DuckDB 2, which has triggers."""
    old = store.rename(store.with_name("old"))
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{old}' AS old (READ_ONLY)")
        connection.execute(f"ATTACH '{store}' AS new (STORAGE_VERSION 'v2.0.0')")
        connection.execute("COPY FROM DATABASE old TO new")
    old.unlink()


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE)
def home(request: pytest.FixtureRequest, two_runs: TwoRuns, tmp_path: Path) -> Iterator[Path]:
    """A data root whose store is hostile; nothing may have been written beside it in the end."""
    shutil.copytree(two_runs[0], tmp_path / "data")
    mark = tmp_path / "mark"
    store = tmp_path / "data" / FILE
    in_storage_2(store)
    with duckdb.connect(store) as connection:
        for statement in request.param:
            connection.execute(statement.format(writes=WRITES.format(mark=mark)))
    assert not mark.exists()
    yield tmp_path / "data"
    assert not mark.exists()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_obeys_it(home: Path, command: tuple[str, ...]) -> None:
    arguments = [part.format(out=home.parent) for part in command]
    found = CliRunner().invoke(app, [*arguments, "--home", str(home)])
    assert found.exit_code in (0, 1)
    assert isinstance(found.exception, SystemExit | None), found.output
    assert not (home.parent / "mark").exists()


def test_publishing_takes_it_out(home: Path, two_runs: TwoRuns) -> None:
    publish(home, two_runs[1].record, {
        stage: artifact.__class__(home / stage / artifact.key, artifact.manifest)
        for stage, artifact in two_runs[1].artifacts.items()
    })  # fmt: skip
    with open_store(home) as own, open_store(two_runs[0]) as other:
        kept = own.execute("SELECT count(*) FROM runs").fetchall()
        assert kept == [(2,)]
        for query in ("FROM top_contexts('demo', 7)", "SELECT max(latent) FROM latents"):
            assert own.execute(query).fetchall() == other.execute(query).fetchall()


def test_a_copy_of_an_older_store_obeys_it_no_more(home: Path) -> None:
    with duckdb.connect(home / FILE) as connection:
        connection.execute("UPDATE main.meta SET value = '3' WHERE name = 'schema_version'")
    with (
        suppress(DeconstructError, duckdb.Error),  # where it is asked which version it is
        open_store(home, files=False, verify=False) as connection,
    ):
        assert connection.execute("SELECT count(*) FROM latents").fetchall() != [(0,)]
