"""Which files a query reads are looked at before it is asked, and what is said of damage."""

from __future__ import annotations

import functools
import io
import shutil
import stat
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from support.damage import flipped
from support.store_artifacts import Planted
from typer.testing import CliRunner

from deconstruct.artifacts.looks import RECORD
from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.config import RunConfig
from deconstruct.store import (
    export_run,
    garbage,
    open_store,
    pages,
    publish,
    remove_runs,
    run_id_of,
)
from deconstruct.store.prompt import ask_on
from deconstruct.store.query import check_query, executed
from deconstruct.store.reading.checks import IN_PLACE, read_by
from deconstruct.store.reading.verify import verify

TwoRuns = tuple[Path, Planted, Planted]


@pytest.fixture
def damaged(two_runs: TwoRuns, tmp_path: Path) -> Path:
    """A copy of the data root in which one bit of the firings of ``demo`` is another."""
    home = tmp_path / "home"
    shutil.copytree(two_runs[0], home)
    flipped(0.5)(firings(home, two_runs[1]), home)
    return home


def firings(home: Path, run: Planted) -> Path:
    return home / "latents" / run.artifacts["latents"].key / "latents.parquet"


@pytest.mark.parametrize(
    ("query", "views"),
    [
        ("SELECT 1", set()),
        ("FROM runs", set()),
        ("SELECT tokens, documents, 'latents' FROM runs -- tokens", set()),
        ("SET VARIABLE a = (SELECT max(latent) FROM latents)", {"latents"}),
        ("CREATE TEMP TABLE a AS FROM deconstruct.latents", {"latents"}),
        ("WITH a AS (SELECT 1), b AS (FROM tokens) FROM a WHERE EXISTS (FROM b)", {"tokens"}),
        ("SUMMARIZE tokens", {"tokens"}),
        ("PIVOT latents ON latent USING max(activation)", {"latents"}),
        ("EXPLAIN ANALYZE FROM documents", {"documents"}),
        (pages.READ_BY_SHOW, {"latent_drift"}),
        (pages.READ_BY_LATENT, {"latents", "tokens", "documents", "feature_logits"}),
        ("SELECT max(activation) FROM LATENTS", {"latents"}),
        ('FROM deconstruct.main."tokens"', {"tokens"}),
        ("FROM top_tokens('demo', 7)", {"latents", "tokens"}),
        ("FROM fires_with('demo', 7)", {"latents"}),
        ("FROM query('FROM ' || 'tok' || 'ens')", {r.name for r in IN_PLACE}),
        ("FROM read_parquet('deconstruct://data/*/*/*')", {r.name for r in IN_PLACE}),
        ("FROM own_view", {"document_latents"}),
    ],
)
def test_the_views_that_a_query_reads(two_runs: TwoRuns, query: str, views: set[str]) -> None:
    with open_store(two_runs[0], verify=False) as store:
        store.execute("CREATE TEMP VIEW own_view AS FROM document_latents")
        found = {relation.name for relation in read_by(store, query)}
    assert views <= found
    assert bool(views) == bool(found)


def test_whoever_reads_it_says_which_file_and_what_remakes_it(
    damaged: Path, two_runs: TwoRuns
) -> None:
    demo, other = (run_id_of(run.artifacts) for run in two_runs[1:])
    place = str(firings(damaged, two_runs[1]).relative_to(damaged))
    for arguments in (
        ["sql", "SELECT sum(activation) FROM latents"],
        ["sql", "FROM top_contexts('demo', 7)"],
        ["latent", "demo", "7"],
        ["export", "demo", str(damaged / "x.duckdb")],
        ["verify"],
        ["verify", "--quick"],
    ):
        result = CliRunner().invoke(app, [*arguments, "--home", str(damaged)])
        assert result.exit_code == 1, arguments
        assert f"{place} is damaged, of run demo ({demo})" in result.output
        assert f"'deconstruct run --again {demo}' remakes what is damaged" in result.output
    for arguments in (
        ["runs"],
        ["show", "demo"],
        ["latent", "other", "7"],
        ["export", "other", str(damaged / "y.duckdb")],
        ["sql", "SELECT run_id FROM runs"],
        ["sql", "SELECT sum(activation) FROM latents", "--no-verify"],
        ["gc"],
    ):
        result = CliRunner().invoke(app, [*arguments, "--home", str(damaged)])
        assert result.exit_code == 0, result.output
    assert (damaged / "y.duckdb").exists()
    assert not (damaged / "x.duckdb").exists()
    assert other in CliRunner().invoke(app, ["runs", "--home", str(damaged)]).output


def test_the_library(damaged: Path, two_runs: TwoRuns) -> None:
    with pytest.raises(StorageError, match=r"latents\.parquet is damaged"):
        open_store(damaged)
    with open_store(damaged, verify=False) as store:
        assert store.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
        check_query(store, damaged, "FROM tokens")
        run = run_id_of(two_runs[2].artifacts)
        check_query(store, damaged, "FROM latents", run_id=run)
        with pytest.raises(StorageError, match=r"latents\.parquet is damaged"):
            check_query(store, damaged, "FROM latents")
    found = verify(damaged)
    assert len(found.faults) == 1
    assert found.files > 20
    with pytest.raises(StorageError, match="is damaged"):
        publish(damaged, two_runs[1].record, two_runs[1].artifacts | moved(damaged, two_runs[1]))
    with pytest.raises(StorageError, match="is damaged"):
        export_run(damaged, "demo", damaged / "x.duckdb")
    assert garbage(damaged) == []
    remove_runs(damaged, ["demo"])
    with open_store(damaged, verify=True) as store:
        assert store.execute("SELECT count(*) FROM runs").fetchall() == [(1,)]


def moved(home: Path, run: Planted) -> dict[str, object]:
    from deconstruct.artifacts import Artifact

    return {
        stage: Artifact(home / stage / artifact.key, artifact.manifest)
        for stage, artifact in run.artifacts.items()
    }


def test_the_prompt_looks_at_each_query(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    console = Console(file=io.StringIO(), width=300)
    with (
        open_store(damaged, files=False, verify=False) as store,
        create_pipe_input() as source,
    ):
        source.send_text("FROM latents;\rSELECT 40 + 2;\r.quit\r")
        look = functools.partial(check_query, store, damaged)
        ask_on(store, console, 9, False, source, DummyOutput(), look=look)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "error: latents/" in said
    assert "42" in said


def test_a_data_root_that_cant_be_written_is_read(
    two_runs: TwoRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    home = tmp_path / "home"
    shutil.copytree(two_runs[0], home)
    (home / RECORD).unlink(missing_ok=True)
    (home / RECORD).mkdir()
    home.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with open_store(home) as store:
            assert len(store.execute("FROM top_contexts('demo', 7)").fetchall()) == 20
    finally:
        home.chmod(stat.S_IRWXU)


def test_what_a_run_was_executed_with(two_runs: TwoRuns) -> None:
    home, demo, _ = two_runs
    config, growth = executed(home, "demo")
    assert (config, growth) == (demo.record.config, "anew")
    assert isinstance(config, RunConfig)
