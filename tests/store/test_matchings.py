"""Pairs of runs in the store: put there, replaced, removed, exported, and no garbage."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from support.old_stores import TO_VERSION_5
from support.store_artifacts import D_SAE, DEAD, Planted, plant
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.recurring.matches import match_runs
from deconstruct.store import (
    QueryError,
    collect,
    export_run,
    garbage,
    open_store,
    publish,
    publish_matchings,
    remove_runs,
    run_id_of,
)
from deconstruct.store.migrate import migrate
from deconstruct.store.rewrite import FILE

TABLES = ("matchings", "latent_matches", "matching_metrics")
NAMES = ("demo", "other", "third")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def runs(home: Path) -> list[Planted]:
    planted = [plant(home, name, seed=seed, documents=6) for seed, name in enumerate(NAMES)]
    for run in planted:
        publish(home, run.record, run.artifacts)
    return planted


def pairs(home: Path, table: str = "matchings") -> set[tuple[str, str]]:
    with open_store(home) as store:
        return set(store.execute(f"SELECT DISTINCT run_id, other_run FROM {table}").fetchall())


def test_a_run_is_matched_with_several(home: Path, runs: list[Planted]) -> None:
    ids = [run_id_of(run.artifacts) for run in runs]
    found = match_runs(home, "demo", ["other", "third", ids[1]])
    assert [(one.run_id, one.other_run) for one in found] == [(ids[0], ids[1]), (ids[0], ids[2])]
    assert all(one.matching.made for one in found)
    match_runs(home, "other", ["demo"])
    expected = {(ids[0], ids[1]), (ids[0], ids[2]), (ids[1], ids[0])}
    assert all(pairs(home, table) == expected for table in TABLES)
    before = (home / FILE).read_bytes()
    assert not any(one.matching.made for one in match_runs(home, "demo", ["other", "third"]))
    assert (home / FILE).read_bytes() == before  # a second call changes nothing
    with open_store(home) as store:
        rows = store.execute(
            "SELECT latent, other_latent, cosine FROM latent_matches "
            "WHERE run_id = resolve_run('demo') AND other_run = resolve_run('third')"
        ).fetchall()
        ((share,),) = store.execute(
            "SELECT value FROM matching_metrics WHERE run_id = resolve_run('demo') "
            "AND other_run = resolve_run('other') AND metric = 'share_over_0.7'"
        ).fetchall()
    assert len(rows) == D_SAE
    assert rows[DEAD] == (DEAD, None, None)
    assert share == found[0].matching.facts["share_over_0.7"]
    publish(home, runs[0].record, runs[0].artifacts)  # executed again
    assert all(pairs(home, table) == expected for table in TABLES)


def test_a_pair_goes_with_either_of_its_runs(home: Path, runs: list[Planted]) -> None:
    ids = [run_id_of(run.artifacts) for run in runs]
    match_runs(home, "demo", ["other", "third"])
    match_runs(home, "other", ["third"])
    assert garbage(home, unused_hours=0) == []
    remove_runs(home, ["other"])
    assert all(pairs(home, table) == {(ids[0], ids[2])} for table in TABLES)
    gone = {(thing.stage, thing.key) for thing in garbage(home, unused_hours=0)}
    assert sum(stage == "matching" for stage, _ in gone) == 2
    collect(home, garbage(home, unused_hours=0))
    assert all(pairs(home, table) == {(ids[0], ids[2])} for table in TABLES)
    assert not match_runs(home, "demo", ["third"])[0].matching.made
    with pytest.raises(StorageError, match=f"run {ids[1]} was removed meanwhile"):
        publish_matchings(home, ids[0], {ids[1]: match_runs(home, "demo", ["third"])[0].matching})


def test_what_can_not_be_matched_is_said_before_any_work(home: Path, runs: list[Planted]) -> None:
    with pytest.raises(QueryError, match=r"'demo' is the run .* itself; name other runs"):
        match_runs(home, "demo", ["other", "demo"])
    with pytest.raises(QueryError, match="no run is called 'nobody'"):
        match_runs(home, "demo", ["other", "nobody"])
    with duckdb.connect(home / FILE) as store:
        store.execute("UPDATE runs SET d_in = 640, model = 'wide' WHERE name = 'third'")
    with pytest.raises(QueryError, match=r"of 'wide', 640 wide, and .* 16 wide.* of one width"):
        match_runs(home, "demo", ["other", "third"])
    assert not (home / "matching").exists()


def test_the_command(home: Path, runs: list[Planted]) -> None:
    run = CliRunner().invoke(app, ["match", "demo", "other", "third", "--home", str(home)])
    assert run.exit_code == 0, run.output
    lines = [line for line in run.stdout.splitlines() if "calibrated PW-MCC" in line]
    assert len(lines) == 2
    assert lines[1].startswith(f"{run_id_of(runs[0].artifacts)} in {run_id_of(runs[2].artifacts)}:")
    told = CliRunner().invoke(
        app, ["match", "demo", "other", "--home", str(home), "--format", "json"]
    )
    [one] = json.loads(told.stdout)["matchings"]
    assert one["other_run"] == run_id_of(runs[1].artifacts)
    assert one["pairs"] == D_SAE - 1
    failed = CliRunner().invoke(app, ["match", "demo", "demo", "--home", str(home)])
    assert failed.exit_code == 1


def test_an_export_has_what_the_run_was_matched_with(
    home: Path, runs: list[Planted], tmp_path: Path
) -> None:
    match_runs(home, "demo", ["other"])
    export_run(home, "demo", tmp_path / "demo.duckdb")
    with duckdb.connect(tmp_path / "demo.duckdb", read_only=True) as copy:
        assert copy.execute("SELECT count(*) FROM latent_matches").fetchall() == [(D_SAE,)]


def test_a_store_of_schema_5_gets_the_tables(home: Path, runs: list[Planted]) -> None:
    with duckdb.connect(home / FILE) as store:
        for table in TABLES:
            store.execute(f"DROP TABLE {table}")
        store.execute(TO_VERSION_5)
    assert all(pairs(home, table) == set() for table in TABLES)  # read as a private copy
    assert garbage(home, unused_hours=0) == []
    match_runs(home, "demo", ["other"])
    assert all(len(pairs(home, table)) == 1 for table in TABLES)
    with duckdb.connect(home / FILE) as store:
        migrate(store, "here")  # once more changes nothing
    assert len(pairs(home)) == 1
