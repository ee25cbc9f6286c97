"""`--format json`, `--version` and help: what programs and people read of the commands."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
from click.testing import Result
from support.store_artifacts import DEAD, LABELS, SPORT_LATENT, Planted
from typer.testing import CliRunner

from deconstruct.store import open_store, run_id_of
from deconstruct.store.ddl import macros
from flows.cli import app

TwoRuns = tuple[Path, Planted, Planted]


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "80"})


def told(*arguments: object) -> dict[str, Any]:
    """The one object that a command prints; NaN and infinities are no JSON."""
    found = ask(*arguments, "--format", "json")
    assert found.exit_code == 0, found.output

    def refuse(name: str) -> None:
        raise ValueError(name)

    read: dict[str, Any] = json.loads(found.stdout, parse_constant=refuse)
    return read


def columns(home: Path, relation: str) -> list[str]:
    with open_store(home) as store:
        return [row[0] for row in store.execute(f"DESCRIBE {relation}").fetchall()]


def test_runs(two_runs: TwoRuns) -> None:
    home, demo, other = two_runs
    runs = told("runs", "--home", home)["runs"]
    assert [run["run_id"] for run in runs] == [run_id_of(r.artifacts) for r in (other, demo)]
    assert [run["names"] for run in runs] == [["other"], ["demo"]]
    assert list(runs[0]) == [*columns(home, "runs"), "names"]
    assert runs[1]["dead_share"] == 1 / 24  # to the last digit
    assert len(told("runs", "--home", home, "--rows", 1)["runs"]) == 1


def test_show(two_runs: TwoRuns) -> None:
    home, demo, _ = two_runs
    page = told("show", "demo", "--home", home)
    assert page.pop("run")["run_id"] == run_id_of(demo.artifacts)
    assert {"stages", "sae_metrics", "probes", "cluster_metrics", "cluster_summary"} < set(page)
    for relation, records in page.items():
        assert list(records[0]) == [c for c in columns(home, relation) if c != "run_id"]
    assert {row["metric"]: row["value"] for row in page["sae_metrics"]}["fvu"] == 0.2
    assert page["cluster_summary"][0]["keywords"] == ["match", "goal"]


def test_latent(two_runs: TwoRuns) -> None:
    home, demo, _ = two_runs
    page = told("latent", "demo", SPORT_LATENT, "--contexts", 2, "--home", home)
    assert page["run_id"] == run_id_of(demo.artifacts)
    assert (page["features"]["latent"], page["features"]["top_token"]) == (SPORT_LATENT, " goal")
    assert [row["token"] for row in page["top_tokens"]] == [" goal"]
    assert [row["label"] for row in page["label_enrichment"]] == [LABELS[1]]
    assert [row["direction"] for row in page["feature_logits"]] == ["promoted", "suppressed"]
    assert [row["rank"] for row in page["top_contexts"]] == [1, 2]
    assert all("«goal»" in row["context"] for row in page["top_contexts"])
    dead = told("latent", "demo", DEAD, "--home", home)
    assert dead["features"]["dead"] is True
    assert dead["top_contexts"] == dead["top_tokens"] == []
    for format_ in ("table", "json"):
        beyond = ask("latent", "demo", 24, "--home", home, "--format", format_)
        assert (beyond.exit_code, beyond.stdout) == (1, "")
        assert "0 to 23" in beyond.stderr


def test_what_is_no_number_is_null(two_runs: TwoRuns, tmp_path: Path) -> None:
    home = shutil.copytree(two_runs[0], tmp_path / "home")
    with duckdb.connect(home / "deconstruct.duckdb") as store:
        store.execute("UPDATE runs SET fvu = 'nan', l0 = 'inf', nmi = NULL")
        store.execute("UPDATE cluster_metrics SET value = '-inf'")
    [first, *_] = told("runs", "--home", home)["runs"]
    assert (first["fvu"], first["l0"], first["nmi"]) == (None, None, None)
    page = told("show", "demo", "--home", home)
    assert {row["value"] for row in page["cluster_metrics"]} == {None}


def test_gc(two_runs: TwoRuns, tmp_path: Path) -> None:
    home = shutil.copytree(two_runs[0], tmp_path / "home")
    assert ask("runs", "rm", "other", "--home", home).exit_code == 0
    kept = told("gc", "--home", home)
    assert (kept["garbage"], kept["bytes"], kept["removed"]) == ([], 0, False)
    listed = told("gc", "--home", home, "--unused-hours", 0)
    assert kept["fresh_bytes"] == listed["bytes"] == sum(t["bytes"] for t in listed["garbage"]) > 0
    assert {"kind", "stage", "key", "path", "bytes", "used"} == set(listed["garbage"][0])
    gone = told("gc", "--home", home, "--unused-hours", 0, "--delete")
    assert gone["removed"] is True
    assert not any(Path(thing["path"]).exists() for thing in gone["garbage"])


def test_doctor_keeps_its_exit_code(tmp_path: Path) -> None:
    page = told("doctor", "--home", tmp_path)
    assert page["sound"] is True
    assert {"subject", "found", "sound"} == set(page["findings"][0])
    (tmp_path / "file").write_text("")
    found = ask("doctor", "--home", tmp_path / "file", "--format", "json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["sound"] is False


def test_json_on_a_terminal_of_a_small_alphabet_stays_json(two_runs: TwoRuns) -> None:
    found = CliRunner(charset="latin-1").invoke(
        app, ["latent", "demo", str(SPORT_LATENT), "--format", "json", "--home", str(two_runs[0])]
    )
    assert found.exit_code == 0, found.output
    assert "«goal»" in json.loads(found.stdout)["top_contexts"][0]["context"]


def test_version() -> None:
    assert ask("--version").stdout == f"deconstruct {version('deconstruct')}\n"


def test_help_loses_nothing() -> None:
    assert "[sweep]" in ask("sweep", "--help").stdout
    page = " ".join(ask("--help").stdout.split())
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        sentence = " ".join(command.help.split()).partition(". ")[0].rstrip(".")
        assert f"{name} {sentence}" in page


def test_safe_is_for_csv(two_runs: TwoRuns, tmp_path: Path) -> None:
    query = ("sql", "SELECT '=1+1' AS x, -1.5 AS y", "--home", two_runs[0])
    assert ask(*query, "--format", "csv", "--safe").stdout == "x,y\n'=1+1,-1.5\n"
    assert ask(*query, "--format", "csv").stdout == "x,y\n=1+1,-1.5\n"
    assert ask(*query, "--safe", "--output", tmp_path / "x.csv").exit_code == 0
    assert (tmp_path / "x.csv").read_text() == "x,y\n'=1+1,-1.5\n"
    refused = ask(*query, "--safe", "--format", "json")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "--safe is for CSV" in refused.stderr


@pytest.mark.parametrize("macro", [m for m in macros() if m.example], ids=lambda m: m.name)
def test_the_example_of_a_macro_runs_and_the_store_tells_of_it(
    two_runs: TwoRuns, macro: Any
) -> None:
    with open_store(two_runs[0]) as store:
        store.execute(macro.example).fetchall()
        told = store.execute(
            "SELECT comment, parameters FROM duckdb_functions() WHERE function_name = ?",
            [macro.name],
        ).fetchall()
    [(comment, parameters)] = told
    assert comment == macro.comment
    named = [parameter.partition(" ")[0] for parameter in macro.parameters]
    assert parameters[: len(named)] == named
