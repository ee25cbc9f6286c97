"""Several stores attached to one connection; programs that write into the store; clocks."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from support.store_artifacts import Planted, plant

from deconstruct.store import load, open_store, publish, remove_runs, resolve_run
from deconstruct.store.ddl import literal
from deconstruct.store.rewrite import FILE

QUESTIONS = (
    "top_contexts('demo', 7)",
    "context_tokens('demo', 7)",
    "top_tokens('demo', 7)",
    "contexts_by_quantile('demo', 7)",
    "ready_contexts('demo', 7)",
    "interpretability('demo')",
    "fires_with('demo', 7)",
    "co_firing('demo', 4, 5)",
    "latents_for_label('demo', 'business')",
    "label_enrichment('demo')",
    "labels_of('demo')",
    "token_enrichment('demo')",
    "probe_errors('demo')",
    "probe_parts([resolve_run('demo')])",
    "probe_table('demo')",
    "documents_in_cluster('demo', 0)",
    "compare_runs('demo', 'demo')",
    "differences('demo', ['demo'])",
    "document_groups('demo')",
    "document_parts([resolve_run('demo')])",
    "measured([resolve_run('demo')])",
    "control_runs('demo')",
    "controls('demo')",
    "latent_across_runs('demo', 7)",
    "counterparts('demo', 'demo')",
    "unusual_latents('demo', dense := 0)",
    "worst_tokens('demo')",
    "error_by_token('demo', min_n := 1)",
    "metrics_over_time()",
    "pareto('demo')",
    "pareto('of nobody')",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores, each with a run of one name."""
    homes = (tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b"))
    for seed, home in enumerate(homes):
        run = plant(home, seed=seed, documents=30 - 6 * seed, corpus_seed=seed)
        publish(home, run.record, run.artifacts)
    return homes


def attached(both: tuple[Path, Path]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name, home in zip("ab", both, strict=True):
        connection.execute(f"ATTACH {literal(str(home / FILE))} AS {name} (READ_ONLY)")
    return connection


def test_every_macro_is_asked_here(both: tuple[Path, Path]) -> None:
    with open_store(both[0]) as store:
        macros = store.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type = 'table_macro' AND NOT internal"
        ).fetchall()
    assert {m for (m,) in macros} - {"tokens_around", "shown_and_scored"} == {
        q.split("(")[0] for q in QUESTIONS
    }


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_macro_answers_from_its_own_store_or_says_why_not(
    both: tuple[Path, Path], question: str
) -> None:
    own = {}
    for name, home in zip("ab", both, strict=True):
        with open_store(home) as store:
            own[name] = store.execute(f"FROM {question}").fetchall()
    if not any(word in question for word in ("nobody", "across", "control")):
        assert own["a"] != own["b"]
    with attached(both) as connection:
        for current, other in ("ab", "ba"):
            connection.execute(f"USE {current}")
            for mine in (question, f"{current}.{question}"):
                assert connection.execute(f"FROM {mine}").fetchall() == own[current]
            with pytest.raises(duckdb.InvalidInputException, match="of another attached store"):
                connection.execute(f"FROM {other}.{question}").fetchall()


def test_a_run_is_resolved_in_its_own_store(both: tuple[Path, Path]) -> None:
    with attached(both) as connection:
        connection.execute("USE a")
        run = connection.execute("SELECT a.resolve_run('demo')").fetchall()
        assert run == connection.execute("SELECT run_id FROM a.runs").fetchall()
        with pytest.raises(duckdb.InvalidInputException, match="USE and its name"):
            connection.execute("SELECT b.resolve_run('demo')").fetchall()


def test_views_of_an_attached_store_read_its_own_artifacts(both: tuple[Path, Path]) -> None:
    with open_store(both[0]) as store:
        store.execute(f"ATTACH {literal(str(both[1] / FILE))} AS b (READ_ONLY)")
        counted = store.execute(
            "SELECT (SELECT count(*) FROM documents), count(*) FROM b.documents"
        )
        assert counted.fetchall() == [(30, 24)]


HOLD = """
import duckdb, sys
held = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("ready", flush=True)
input()
"""


@pytest.mark.parametrize("mode", ["write", "read"])
def test_a_program_that_writes_into_the_store_is_named(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = plant(tmp_path), plant(tmp_path, "later", seed=1)
    publish(tmp_path, first.record, first.artifacts)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / FILE), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    with caplog.at_level(logging.WARNING):
        publish(tmp_path, second.record, second.artifacts)
    holder.communicate("\n")
    with open_store(tmp_path) as store:
        assert store.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
    warned = [message for message in caplog.messages if "open for writing" in message]
    assert len(warned) == (mode == "write")
    for message in warned:
        assert re.search(rf"\(PID {holder.pid}\)", message)
        assert str(tmp_path / FILE) in message


def test_the_order_of_publishing_follows_no_clock_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a year ahead while the first run is published; the next ones come after it."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now().astimezone() + timedelta(days=365)

    runs: list[Planted] = [plant(tmp_path, f"run {seed}", seed=seed) for seed in range(3)]
    with monkeypatch.context() as clock:
        clock.setattr(load, "datetime", Ahead)
        publish(tmp_path, runs[0].record, runs[0].artifacts)
    for run in runs[1:]:
        publish(tmp_path, run.record, run.artifacts)
    with open_store(tmp_path) as store:
        for table in ("runs", "executions"):
            found = store.execute(f"SELECT name FROM {table} ORDER BY published").fetchall()
            assert [name for (name,) in found] == ["run 0", "run 1", "run 2"]
        assert store.execute(
            "SELECT name FROM runs WHERE run_id = ?", [resolve_run(store, "latest")]
        ).fetchall() == [("run 2",)]
    remove_runs(tmp_path, ["run 2"])
    publish(tmp_path, runs[2].record, runs[2].artifacts)
    with open_store(tmp_path) as store:
        (last, *_) = store.execute("SELECT name FROM runs ORDER BY published DESC").fetchall()
        assert last == ("run 2",)
