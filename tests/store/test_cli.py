"""The reading commands: runs, show, latent, sql, export."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from support.store_artifacts import D_SAE, DEAD, LABELS, SPORT_LATENT, Planted, plant
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.store import publish, run_id_of

TwoRuns = tuple[Path, Planted, Planted]


def ask(home: Path, *arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments, "--home", str(home)], input=text)


def good(home: Path, *arguments: str, text: str | None = None) -> str:
    result = ask(home, *arguments, text=text)
    assert result.exit_code == 0, result.output
    return result.stdout


def error(home: Path, *arguments: str, text: str | None = None) -> str:
    """The one sentence of a command that can't be done."""
    result = ask(home, *arguments, text=text)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_runs_lists_the_newest_first(two_runs: TwoRuns) -> None:
    home, demo, other = two_runs
    lines = good(home, "runs").splitlines()
    assert lines[0].split()[:4] == ["run_id", "name", "site", "sae"]
    assert lines[1].split()[:2] == [run_id_of(other.artifacts), "other"]
    assert lines[2].split()[:2] == [run_id_of(demo.artifacts), "demo"]
    assert len(good(home, "runs", "--rows", "1").splitlines()) == 2


def test_show_has_every_section(two_runs: TwoRuns) -> None:
    page = good(two_runs[0], "show", "demo")
    for text in (
        run_id_of(two_runs[1].artifacts),
        "topk, 16 -> 24, k = 4",
        *("Stages", "Metrics of the SAE", "Probes", "Clustering", "Clusters"),
        *("loss_recovered", "activations", "majority", "silhouette", "match, goal"),
    ):
        assert text in page
    assert good(two_runs[0], "show") == good(two_runs[0], "show", "other")


def test_latent_marks_where_it_fires(two_runs: TwoRuns) -> None:
    page = good(two_runs[0], "latent", "demo", str(SPORT_LATENT), "--contexts", "3")
    assert "' goal'" in page
    labels = page.split("Labels it goes with")[1].splitlines()
    assert labels[2].startswith(LABELS[1])
    assert labels[2].split()[-4:-2] == ["2", "3"]  # both held-out documents, three times chance
    assert re.search(r"promoted +' goal'", page)
    assert re.search(r"suppressed +' of'", page)
    contexts = page.split("Strongest contexts")[1].strip().splitlines()[1:]
    assert len(contexts) == 3
    assert all("«goal»" in line and LABELS[1] in line for line in contexts)
    assert "a dead latent" in good(two_runs[0], "latent", "demo", str(DEAD))
    assert f"0 to {D_SAE - 1}" in error(two_runs[0], "latent", "demo", "24")


def test_control_characters_of_the_corpus_do_not_reach_the_terminal(two_runs: TwoRuns) -> None:
    page = good(two_runs[0], "sql", "SELECT 'a' || chr(27) || '[31mb' || chr(10) || 'c' AS x")
    assert "a\\x1b[31mb⏎c" in page


def test_sql_table_is_aligned_and_says_what_it_cuts(two_runs: TwoRuns) -> None:
    page = good(
        two_runs[0],
        "sql",
        "SELECT range AS n, repeat('x', 100) AS t FROM range(200)",
        "--rows",
        "2",
    )
    head, first, second, note = page.splitlines()
    assert head.split() == ["n", "t"]
    assert len(first) == len(second)
    assert first.endswith("…")
    assert "first 2 rows of more" in note
    assert "--full" in note
    assert "x" * 100 in good(two_runs[0], "sql", "SELECT repeat('x', 100) AS t", "--full")
    assert "3.142" in good(two_runs[0], "sql", "SELECT pi() AS p")
    assert "0 rows" in good(two_runs[0], "sql", "SELECT 1 WHERE false")


def test_sql_csv(two_runs: TwoRuns) -> None:
    query = "SELECT 'a,\"b\"\n' AS text, [1, 2] AS list, NULL AS nothing, 0.1::DOUBLE AS x"
    rows = list(csv.reader(io.StringIO(good(two_runs[0], "sql", query, "--format", "csv"))))
    assert rows == [["text", "list", "nothing", "x"], ['a,"b"\n', "[1, 2]", "", "0.1"]]


def test_sql_json(two_runs: TwoRuns) -> None:
    query = (
        "SELECT 'naïve' AS text, {'latent': 3, 'push': 'nan'::DOUBLE} AS s, NULL AS nothing, "
        "TIMESTAMP '2026-01-02 03:04:05' AS t"
    )
    assert json.loads(good(two_runs[0], "sql", query, "--format", "json")) == [
        {
            "text": "naïve",
            "s": {"latent": 3, "push": None},
            "nothing": None,
            "t": "2026-01-02 03:04:05",
        }
    ]
    assert json.loads(good(two_runs[0], "sql", "FROM runs LIMIT 0", "--format", "json")) == []


def test_sql_parquet(two_runs: TwoRuns, tmp_path: Path) -> None:
    target = tmp_path / "it's.parquet"
    query = "SELECT latent, activation FROM latents WHERE run_id = resolve_run('demo')"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a user would read it
        good(two_runs[0], "sql", query, "--format", "parquet", "--output", str(target))
    assert pq.read_table(target).num_rows == (two_runs[1].activations > 0).sum()
    assert "--output" in error(two_runs[0], "sql", query, "--format", "parquet")


def test_sql_from_a_file_standard_input_and_into_a_file(two_runs: TwoRuns, tmp_path: Path) -> None:
    file = tmp_path / "query; DROP.sql"
    file.write_text("SELECT count(*) AS n FROM runs")
    out = tmp_path / "out.csv"
    assert good(two_runs[0], "sql", "--file", str(file), "--format", "csv") == "n\n2\n"
    assert good(two_runs[0], "sql", "-", "--format", "csv", text="SELECT 7 AS n") == "n\n7\n"
    assert good(two_runs[0], "sql", "--format", "csv", text="SELECT 8 AS n") == "n\n8\n"
    assert good(two_runs[0], "sql", "SELECT 9 AS n", "--format", "csv", "--output", str(out)) == ""
    assert out.read_text() == "n\n9\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sql", "SELECT nonsense FROM runs"], "nonsense"),
        (["sql", "DROP TABLE runs"], "written by runs alone"),
        (["sql", "   "], "the query is empty"),
        (["sql", "SELECT 1", "--file", "x.sql"], "given twice"),
        (["sql", "--file", "/does/not/exist.sql"], "can't be read"),
        (["show", "nobody"], "no run is called 'nobody'"),
        (["show", "'; DROP TABLE runs; --"], "no run is called"),
        (["latent", "nobody", "1"], "the newest are"),
        (["export", "nobody", "/tmp/nobody.duckdb"], "no run is called"),
        (["export", "demo", "/no/such/x.duckdb"], "there is no folder '/no/such'; make it"),
        (["sql", "SELECT 1", "--output", "/no/such/x.txt"], "there is no folder '/no/such'"),
        (["sql", "SELECT 1", "--output", "/tmp"], "'/tmp' is a folder; name a file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    two_runs: TwoRuns, arguments: list[str], words: str
) -> None:
    assert words in error(two_runs[0], *arguments)


def test_without_a_store_the_way_to_one_is_said(tmp_path: Path) -> None:
    for command in (["runs"], ["show"], ["latent", "latest", "0"], ["sql", "FROM runs"]):
        assert "deconstruct run" in error(tmp_path, *command)


def test_export_makes_a_file_for_a_plain_shell(two_runs: TwoRuns, tmp_path: Path) -> None:
    target = tmp_path / "x'; DROP TABLE runs; --.duckdb"
    assert run_id_of(two_runs[1].artifacts) in good(two_runs[0], "export", "demo", str(target))
    with duckdb.connect(target, read_only=True) as copy:
        assert copy.execute("SELECT name FROM runs").fetchall() == [("demo",)]
    assert "exists already" in error(two_runs[0], "export", "demo", str(target))


@pytest.mark.parametrize("text", ["'; DROP TABLE runs; --", '"; x', "[bold]x[/]", "--home"])
def test_hostile_run_names(tmp_path: Path, text: str) -> None:
    planted = plant(tmp_path, text)
    publish(tmp_path, planted.record, planted.artifacts)
    assert text in good(tmp_path, "runs")
    assert text in good(tmp_path, "show", f"{text}@9.resid_post" if text[0] != "-" else "latest")
    assert good(tmp_path, "sql", "SELECT name FROM runs").splitlines()[1].strip() == text


@pytest.mark.parametrize("more", [["--format", "csv"], ["--rows", "100000"], ["--format", "json"]])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(
    two_runs: TwoRuns, more: list[str]
) -> None:
    command = [sys.executable, "-c", "from deconstruct.cli import app; app()", "sql"]
    query = "SELECT range, repeat('x', 100) AS text FROM range(2000)"
    process = subprocess.Popen(
        [*command, query, *more, "--home", str(two_runs[0])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_reading_needs_neither_torch_nor_prefect(two_runs: TwoRuns) -> None:
    script = (
        "import sys; from deconstruct.cli import app; app(['runs'], standalone_mode=False); "
        "print([m for m in ('torch', 'prefect', 'transformers', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "DECONSTRUCT_HOME": str(two_runs[0])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_runs_rm_and_gc(tmp_path: Path) -> None:
    for seed, name in enumerate(("first", "second")):
        planted = plant(tmp_path, name, seed=seed, documents=6)
        publish(tmp_path, planted.record, planted.artifacts)
    assert "no run is called 'third'" in error(tmp_path, "runs", "rm", "third")
    removed = CliRunner().invoke(app, ["runs", "--home", str(tmp_path), "rm", "first"])
    assert removed.exit_code == 0
    assert removed.stdout.startswith("run ")
    assert "'deconstruct gc' lists what no run needs" in removed.stderr
    assert "first" not in good(tmp_path, "runs")
    fresh = ask(tmp_path, "gc")
    assert fresh.stdout == "0.0 MB can go\n"
    said = (
        r"(\d+\.\d) MB more are needed by no run, but were used within the last hour, so they stay"
    )
    assert re.match(said, fresh.stderr)
    assert "--unused-hours 0 takes them too" in fresh.stderr
    listed = good(tmp_path, "gc", "--unused-hours", "0")
    assert "--delete removes them" in listed
    assert len(listed.splitlines()) == 2 + len(planted.artifacts) - 1  # the corpus is shared
    assert len(list(tmp_path.glob("latents/*"))) == 2
    assert "removed" in good(tmp_path, "gc", "--unused-hours", "0", "--delete")
    assert len(list(tmp_path.glob("latents/*"))) == 1
    assert good(tmp_path, "gc", "--unused-hours", "0") == "0.0 MB can go\n"
    assert "second" in good(tmp_path, "show", "latest")
