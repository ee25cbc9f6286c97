"""What ``deconstruct sql`` writes, and where: files by their ending, statements, notes."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from support.store_artifacts import Planted
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.store import run_id_of

TwoRuns = tuple[Path, Planted, Planted]
MANY = "SELECT range AS n, repeat('x', 100) AS t FROM range(1000)"


def ask(home: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["sql", *map(str, arguments), "--home", str(home)])


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet", ".CSV"])
def test_the_ending_of_a_file_decides_what_it_holds(
    two_runs: TwoRuns, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"f{ending}"
    for format_ in ((), ("--format", ending[1:].lower())):
        result = ask(two_runs[0], MANY, "--output", file, *format_)
        assert result.exit_code == 0, result.output
        if ending == ".parquet":
            rows = pq.read_table(file).to_pylist()
        elif ending == ".json":
            rows = json.loads(file.read_text())
        else:
            rows = list(csv.DictReader(file.open()))
        assert [int(row["n"]) for row in rows] == list(range(1000))
        assert {row["t"] for row in rows} == {"x" * 100}


@pytest.mark.parametrize(
    ("name", "format_", "words"),
    [
        ("f.csv", "table", "--format table does not fit --output"),
        ("f.csv", "parquet", "--format parquet does not fit"),
        ("f.parquet", "csv", "--format csv does not fit"),
        ("f.parquet", "table", "--format table does not fit"),
        ("f.json", "csv", "--format csv does not fit"),
        ("f.xlsx", None, "end it in .csv, .json, .parquet, .txt"),
        ("f", None, "end it in .csv"),
        ("f.duckdb", "csv", "end it in .csv"),  # there is a file of another kind
        ("nowhere/f.csv", None, "there is no folder"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_as_it_was(
    two_runs: TwoRuns, tmp_path: Path, name: str, format_: str | None, words: str
) -> None:
    file = tmp_path / name
    if file.parent == tmp_path:
        file.write_text("good")
    told = () if format_ is None else ("--format", format_)
    result = ask(two_runs[0], MANY, "--output", file, *told)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not file.exists() or file.read_text() == "good"


@pytest.mark.parametrize("name", ["f.csv", "f.json", "f.parquet"])
def test_a_query_that_fails_on_the_way_leaves_the_file_as_it_was(
    two_runs: TwoRuns, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("good")
    late = "SELECT CASE WHEN range = 900000 THEN error('late') ELSE range END FROM range(1000000)"
    result = ask(two_runs[0], late, "--output", tmp_path / name)
    assert result.exit_code == 1
    assert "late" in result.stderr
    assert (tmp_path / name).read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_format_may_be_told_where_a_name_tells_none(two_runs: TwoRuns, tmp_path: Path) -> None:
    assert ask(two_runs[0], MANY, "--output", tmp_path / "new", "--format", "csv").exit_code == 0
    assert (tmp_path / "new").read_text().startswith("n,t\n0,")
    assert ask(two_runs[0], MANY, "--output", "/dev/null", "--format", "csv").exit_code == 0
    assert ask(two_runs[0], MANY, "--output", tmp_path / "f.txt").exit_code == 0
    assert "first 100 rows of more" in (tmp_path / "f.txt").read_text()


def test_each_statement_is_answered(two_runs: TwoRuns) -> None:
    page = ask(two_runs[0], "SELECT 1254 AS a; SET VARIABLE x = 7; SELECT getvariable('x') AS b;")
    assert [line.strip() for line in page.stdout.splitlines()] == [
        "a", "1254", "1 row", "b", "7", "1 row",
    ]  # fmt: skip


def test_a_file_of_one_answer_takes_one(two_runs: TwoRuns, tmp_path: Path) -> None:
    for where in (("--format", "csv"), ("--output", tmp_path / "f.parquet")):
        two = ask(two_runs[0], "SELECT 1 AS a; SELECT 2 AS b", *where)
        assert two.exit_code == 1
        assert "2 statements that give one" in two.stderr
        assert two.stdout == ""
    one = ask(two_runs[0], "SET VARIABLE x = 7; SELECT getvariable('x') AS b", "--format", "csv")
    assert one.stdout == "b\n7\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) AS n FROM latents WHERE run_id = 'latest'",
        "SELECT count(*) AS n FROM latents AS l WHERE 'latest' = l.run_id",
        "SELECT count(*) AS n FROM latents WHERE run_id IN ('{demo}', 'latest')",
        "SELECT count(*) AS n FROM latents WHERE \"run_id\" <> 'latest'",
    ],
)
def test_a_name_where_only_an_id_can_stand_is_said(two_runs: TwoRuns, query: str) -> None:
    home, demo, _ = two_runs
    result = ask(home, query.format(demo=run_id_of(demo.artifacts)), "--format", "csv")
    assert result.stdout.startswith("n\n")
    note = "note: no run_id is 'latest'; write resolve_run('latest') in the place of 'latest'\n"
    assert result.stderr == note


def test_no_note_where_none_is_due(two_runs: TwoRuns) -> None:
    home, demo, _ = two_runs
    run = run_id_of(demo.artifacts)
    for query in (
        f"SELECT 1 FROM runs WHERE run_id = '{run}'",
        "SELECT 1 FROM runs WHERE run_id = resolve_run('latest')",
        "SELECT 1 FROM runs WHERE name = 'latest'",
    ):
        assert ask(home, query).stderr == ""
    unknown = ask(home, "SELECT 1 FROM runs WHERE run_id = 'nobody'")
    assert "note: no run is called 'nobody'; the newest are" in unknown.stderr


def test_a_link_in_the_place_of_a_draft_is_not_followed(two_runs: TwoRuns, tmp_path: Path) -> None:
    """Its name can be guessed, and --output may name a folder into which others write."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "shared").mkdir()
    for ending in ("csv", "json", "parquet", "txt"):
        answer = tmp_path / "shared" / f"answer.{ending}"
        (tmp_path / "shared" / f".{answer.name}.{os.getpid()}.draft").symlink_to(precious)
        asked = ["sql", "SELECT 1 AS a", "--output", str(answer), "--home", str(two_runs[0])]
        assert CliRunner().invoke(app, asked).exit_code == 0
        assert answer.is_file()
        assert not answer.is_symlink()
    assert precious.read_text() == "mine"
