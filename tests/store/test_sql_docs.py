"""docs/sql.md and docs/schema.md against a store: queries run, tables are the real ones."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from support.paths import ROOT
from support.refresh import refresh
from support.store_artifacts import plant
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.recurring.matches import match_runs
from deconstruct.store import open_store, publish
from deconstruct.store.describe import columns, er_diagram, references, schema_page
from deconstruct.store.headlines import HEADLINES
from deconstruct.store.schema import RELATIONS

DOCS = ROOT / "docs"
PAGE = (DOCS / "sql.md").read_text()
README = (ROOT / "README.md").read_text()
NAMES = ("business", "sports", "tech")


REFRESH = refresh()
QUESTIONS = re.findall(
    r"### (\d+)\. ([^\n]+)\n(?:(?!###).)*?```sql\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL
)


SHOWN = REFRESH.SHOWN.findall(README)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def store(home: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A small store with runs of the names that the page uses."""
    for seed, name in enumerate(("layer-9", "layer-5", "layer-9-seed-1")):
        run = plant(home, name, seed=seed, names=NAMES)
        publish(home, run.record, run.artifacts)
    match_runs(home, "layer-9", ["layer-9-seed-1"])
    with open_store(home) as connection:
        first = re.findall(r"```sql\n(SET VARIABLE.*?)```", PAGE, re.DOTALL)
        assert len(first) == 1
        connection.execute(first[0])
        yield connection


def test_there_are_at_least_twenty_questions_in_order() -> None:
    assert len(QUESTIONS) >= 20
    assert [int(number) for number, *_ in QUESTIONS] == list(range(1, len(QUESTIONS) + 1))
    assert PAGE.count("```sql") == len(QUESTIONS) + 1


@pytest.mark.parametrize(("number", "title", "query", "answer"), QUESTIONS, ids=lambda q: q[:30])
def test_the_query_runs_and_has_the_columns_that_the_page_shows(
    store: duckdb.DuckDBPyConnection, number: str, title: str, query: str, answer: str
) -> None:
    assert title
    result = store.execute(query)
    assert [c[0] for c in result.description or []] == answer.splitlines()[0].split()
    rows = result.fetchall()
    assert rows or number in ("23", "29"), "no rows"
    assert re.search(r"^\d+ rows?$", answer.rstrip().splitlines()[-1])
    assert not answer.rstrip().endswith("\n0 rows")


def test_the_page_is_refreshed_in_place(store: duckdb.DuckDBPyConnection) -> None:
    again = REFRESH.answered(PAGE, lambda query: "x")
    assert again.count("```text\nx\n```") == PAGE.count("```sql")
    assert REFRESH.answered(again, lambda query: "x") == again
    assert "2 rows" in REFRESH.answer(store, "FROM range(2)")


def test_the_schema_page_is_the_stores_own(store: duckdb.DuckDBPyConnection) -> None:
    assert (DOCS / "schema.md").read_text() == schema_page(store)


def test_the_diagram_has_every_relation_and_column_of_the_database(
    store: duckdb.DuckDBPyConnection,
) -> None:
    diagram = er_diagram(store)
    for relation, own in columns(store).items():
        block = re.search(rf"^    {relation} {{\n(.*?)^    }}", diagram, re.DOTALL | re.MULTILINE)
        assert block is not None, relation
        names = [line.split()[1] for line in block[1].splitlines()]
        assert names == [column for column, _, _ in own]
    assert set(columns(store)) == {relation.name for relation in RELATIONS}


def test_what_the_diagram_connects_can_be_joined(store: duckdb.DuckDBPyConnection) -> None:
    linked = references(columns(store))
    assert {child for child, _, _ in linked} == {r.name for r in RELATIONS} - {"meta", "runs"}
    for child, parent, key in linked:
        orphans = store.execute(
            f"SELECT count(*) FROM {child} AS c ANTI JOIN {parent} AS p USING ({', '.join(key)})"
        ).fetchall()
        assert orphans == [(0,)], (child, parent)
        twice = store.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {parent} GROUP BY {', '.join(key)} "
            "HAVING count(*) > 1)"
        ).fetchall()
        assert twice == [(0,)], parent


def heads(output: str) -> list[str]:
    """The title of each part of a page, and the names of its columns."""
    found = []
    for part in textwrap.dedent(output).strip().split("\n\n"):
        title, *rest = part.splitlines()
        found.append(" ".join(re.findall(r"[A-Za-z_]{2,}", re.sub(r"run \w+", "run", title))))
        if rest and all(re.fullmatch(r"[a-z_]+", word) for word in rest[0].split()):
            found.append(" ".join(rest[0].split()))
    return found


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_readme_shows_is_what_its_commands_print(
    store: duckdb.DuckDBPyConnection, home: Path, command: str, output: str
) -> None:
    """Titles and columns; the numbers are of another run."""
    words = shlex.split(re.sub(r"latent latest \d+", "latent latest 1", command))[1:]
    printed = CliRunner().invoke(app, [*words, "--home", str(home)], env={"COLUMNS": "100"})
    assert printed.exit_code == 0, printed.output
    now = heads(printed.stdout)  # a small store's latent has fewer parts, in the same order
    assert [one for one in heads(output) if one in now] == now
    assert len(now) > 0


def test_readme_ends_a_run_as_a_run_ends() -> None:
    [ending] = REFRESH.ENDING.findall(README)
    for headline in HEADLINES:
        assert re.search(rf"^    {re.escape(headline.label)} .*\d", ending[1], re.MULTILINE), (
            headline
        )
    readings = re.findall(
        r"(lower is better|higher is better|a baseline)$", ending[1], re.MULTILINE
    )
    assert readings == [h.reading for h in HEADLINES if h.reading]
