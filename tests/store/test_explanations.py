"""Explanations in the store: published to a run that is there, kept, and free of what was shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from support.old_stores import TO_VERSION_5
from support.stand_in import says_no, standing_in
from support.store_artifacts import SPORT_LATENT, Planted, plant
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.recurring.explanations import explain_run
from deconstruct.store import QueryError, open_store, publish
from deconstruct.store.rewrite import FILE

TABLES = ("latent_scores", "explanations", "explanation_scores", "explanation_items")


def planted(home: Path) -> Planted:
    """A run that nothing was explained of."""
    run = plant(home, documents=120)
    stages = {stage: made for stage, made in run.artifacts.items() if stage != "explanation"}
    run = replace(run, artifacts=stages)
    publish(home, run.record, run.artifacts)
    return run


def count(home: Path, table: str) -> int:
    with open_store(home) as store:
        ((found,),) = store.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(found)


def test_explanations_come_to_the_run_and_stay_when_it_is_published_again(tmp_path: Path) -> None:
    run = planted(tmp_path)
    with standing_in(says_no) as server:
        changes = {"endpoint": server.url, "model": "m", "only": (SPORT_LATENT, 0)}
        run_id, made = explain_run(tmp_path, "demo", changes)
        asked = len(server.asked)
        written = (tmp_path / FILE).stat().st_mtime_ns
        assert explain_run(tmp_path, "demo", changes)[1].key == made.key
        assert len(server.asked) == asked > 0
        assert (tmp_path / FILE).stat().st_mtime_ns == written
    assert count(tmp_path, "explanations") == 2
    assert count(tmp_path, "explanation_items") > 40
    assert publish(tmp_path, run.record, run.artifacts) == run_id
    assert count(tmp_path, "explanations") == 2
    assert count(tmp_path, "stages WHERE stage = 'explanation'") == 1
    with standing_in(says_no) as server:
        changes = {"endpoint": server.url, "model": "m", "only": (0,)}
        explain_run(tmp_path, "demo", changes)
        assert server.asked == []
    assert count(tmp_path, "explanations") == 1


def test_nothing_that_was_shown_is_scored_and_scores_are_those_of_the_items(
    tmp_path: Path,
) -> None:
    planted(tmp_path)
    with standing_in(says_no) as server:
        explain_run(
            tmp_path, "demo", {"endpoint": server.url, "model": "m", "only": (SPORT_LATENT, 0, 12)}
        )
    assert count(tmp_path, "shown_and_scored('demo')") == 0
    with open_store(tmp_path) as store:
        again = store.execute("""
            SELECT latent, method, 0.5 * avg((answer)::INT) FILTER (truth)
                + 0.5 * avg((NOT answer)::INT) FILTER (NOT truth)
            FROM explanation_items WHERE method <> 'intruder-endpoint' GROUP BY ALL ORDER BY ALL
        """).fetchall()
        stored = store.execute("""
            SELECT latent, method, value FROM explanation_scores
            WHERE method <> 'intruder-endpoint' ORDER BY ALL
        """).fetchall()
        told = store.execute("SELECT DISTINCT method FROM interpretability('demo')").fetchall()
    assert again == stored
    assert len(stored) == 6
    assert {value for *_, value in stored} == {0.5}
    assert {method for (method,) in told} == {
        "intruder-tfidf", "intruder-endpoint", "detection", "fuzzing"
    }  # fmt: skip


def test_a_context_that_was_shown_and_scored_is_found(tmp_path: Path) -> None:
    """The query is no empty promise: the same documents on both sides give rows."""
    planted(tmp_path)
    with standing_in(says_no) as server:
        explain_run(tmp_path, "demo", {"endpoint": server.url, "model": "m", "only": (0,)})
    with duckdb.connect(tmp_path / FILE) as store:
        store.execute(
            "UPDATE explanations SET shown = (SELECT list(token_index) FROM explanation_items)"
        )
    assert count(tmp_path, "shown_and_scored('demo')") > 0


def test_the_command_says_what_was_asked(tmp_path: Path) -> None:
    planted(tmp_path)
    runner, home = CliRunner(), ("--home", str(tmp_path))
    with standing_in(says_no) as server:
        command = ["explain", "demo", "--endpoint", server.url, "--model", "m", "--latents", "2"]
        first = runner.invoke(app, [*command, *home])
        assert first.exit_code == 0, first.output
        assert "2 latents explained by m" in first.stdout
        again = runner.invoke(app, [*command, *home])
        assert again.stdout.strip().endswith("from cache")
    failed = runner.invoke(app, ["explain", "demo", *home])
    assert failed.exit_code != 0
    assert "--endpoint" in failed.output
    with pytest.raises(QueryError, match="nobody"):
        explain_run(tmp_path, "nobody", {})


def test_a_store_of_schema_5_gets_the_tables(tmp_path: Path) -> None:
    run = plant(tmp_path)
    publish(tmp_path, run.record, run.artifacts)
    with duckdb.connect(tmp_path / FILE) as store:
        for table in TABLES:
            store.execute(f"DROP TABLE {table}")
        store.execute(TO_VERSION_5)
    with open_store(tmp_path) as store:
        assert store.execute("SELECT count(*) FROM runs").fetchall() == [(1,)]
    other = plant(tmp_path, "other", seed=1)
    publish(tmp_path, other.record, other.artifacts)
    assert count(tmp_path, "latent_scores") == 2
    assert count(tmp_path, "interpretation_items") == 10
