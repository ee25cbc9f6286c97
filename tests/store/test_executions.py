"""A run's names, and each time that it was executed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.old_stores import TO_VERSION_4
from support.store_artifacts import Planted, plant

from deconstruct.config import EVERY_STAGE, Growth
from deconstruct.store import QueryError, open_store, publish, remove_runs, resolve_run
from deconstruct.store.rewrite import FILE

ALL = [stage for stage in EVERY_STAGE if stage != "matching"]  # which is of two runs
EVENING = datetime(2026, 3, 1, 3, tzinfo=UTC)


def execute(
    home: Path, planted: Planted, name: str, night: int, growth: Growth = "anew", made: bool = False
) -> str:
    """Publish as a run of this name would, so many nights after the first."""
    started = EVENING + timedelta(days=night)
    record = planted.record.model_copy(
        update={
            "config": planted.record.config.model_copy(update={"name": name}),
            "growth": growth,
            "started": started,
            "finished": started + timedelta(seconds=7),
            "cached": frozenset() if made else frozenset(ALL),
        }
    )
    return publish(home, record, planted.artifacts)


def ask(home: Path, query: str) -> list[tuple[Any, ...]]:
    with open_store(home) as store:
        return store.execute(query).fetchall()


def test_equal_work_under_another_name_takes_nothing_away(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    run = execute(tmp_path, planted, "nightly", 0, made=True)
    of_its_making = ask(tmp_path, "FROM runs"), ask(tmp_path, "FROM stages ORDER BY ordinal")
    assert execute(tmp_path, planted, "trial", 1) == run
    assert (ask(tmp_path, "FROM runs"), ask(tmp_path, "FROM stages ORDER BY ordinal")) == (
        of_its_making
    )
    with open_store(tmp_path) as store:
        for name in ("nightly", "trial", "latest", "nightly@9.resid_post", run[:5], run):
            assert resolve_run(store, name) == run
    assert ask(tmp_path, "SELECT name, first_execution, last_execution FROM names ORDER BY 2") == [
        ("nightly", 1, 1),
        ("trial", 2, 2),
    ]


def test_a_name_means_the_run_that_was_executed_last_under_it(tmp_path: Path) -> None:
    first, second = plant(tmp_path, "a"), plant(tmp_path, "b", seed=1)
    one, two = (execute(tmp_path, p, "nightly", n) for n, p in enumerate((first, second)))
    with open_store(tmp_path) as store:
        assert resolve_run(store, "nightly") == resolve_run(store, "latest") == two != one
    assert execute(tmp_path, first, "nightly", 2) == one
    assert execute(tmp_path, second, "weekly", 3) == two
    with open_store(tmp_path) as store:
        assert resolve_run(store, "nightly") == one
        assert resolve_run(store, "weekly") == resolve_run(store, "latest") == two


def test_order_is_that_of_execution_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2099, 1, 1, tzinfo=UTC)

    first, second = plant(tmp_path, "a"), plant(tmp_path, "b", seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("deconstruct.store.load.datetime", Ahead)
        execute(tmp_path, first, "nightly", 0)
    later = execute(tmp_path, second, "nightly", 1)
    with open_store(tmp_path) as store:
        assert resolve_run(store, "nightly") == resolve_run(store, "latest") == later


def test_a_night_without_news_leaves_a_trace(tmp_path: Path) -> None:
    first, second = plant(tmp_path, "a"), plant(tmp_path, "b", seed=1)
    execute(tmp_path, first, "nightly", 0, "encode", made=True)
    execute(tmp_path, first, "nightly", 1, "encode")
    execute(tmp_path, first, "trial", 1, made=True)
    execute(tmp_path, second, "nightly", 2, "encode", made=True)
    rows = ask(
        tmp_path, "SELECT started, name, made, fvu, fvu_typical_change FROM metrics_over_time()"
    )
    typical = [row[0] for row in ask(tmp_path, "SELECT fvu_typical FROM runs ORDER BY published")]
    assert [(row[0] - EVENING).days for row in rows] == [0, 1, 1, 2]
    every = len(ALL)
    assert [row[1:3] for row in rows] == [
        ("nightly", every), ("nightly", 0), ("trial", every), ("nightly", every)
    ]  # fmt: skip
    assert [row[4] for row in rows] == [None, 0, None, pytest.approx(typical[1] - typical[0])]
    found = ask(tmp_path, "SELECT growth, made, cached, finished - started FROM executions")
    assert found[0] == ("encode", ALL, [], timedelta(seconds=7))
    assert found[1] == ("encode", [], ALL, timedelta(seconds=7))


def test_a_run_of_several_names_is_removed_by_none_of_them(tmp_path: Path) -> None:
    planted, other = plant(tmp_path), plant(tmp_path, "other", seed=1)
    run = execute(tmp_path, planted, "nightly", 0)
    execute(tmp_path, planted, "trial", 1)
    execute(tmp_path, other, "trial2", 1)
    with pytest.raises(QueryError, match=rf"'trial' is 'nightly' too, .* its run_id, {run},"):
        remove_runs(tmp_path, ["trial"])
    with pytest.raises(QueryError, match=r"'trial@9\.resid_post' is 'nightly' too"):
        remove_runs(tmp_path, ["trial@9.resid_post"])
    assert remove_runs(tmp_path, [run, "trial2"])[0] == run
    assert ask(tmp_path, "FROM names") == ask(tmp_path, "FROM executions") == []


def test_a_store_of_schema_3_is_read_as_one_execution_a_run(tmp_path: Path) -> None:
    first, second = plant(tmp_path, "a"), plant(tmp_path, "b", seed=1)
    runs = [execute(tmp_path, p, "nightly", n, made=not n) for n, p in enumerate((first, second))]
    with duckdb.connect(tmp_path / FILE) as old:
        old.execute(TO_VERSION_4)
        old.execute("DROP TABLE names; DROP TABLE executions")
        old.execute("UPDATE meta SET value = '3' WHERE name = 'schema_version'")
    wanted = [
        (runs[0], 1, "nightly", None, EVENING, ALL, []),
        (runs[1], 2, "nightly", None, EVENING + timedelta(days=1), [], ALL),
    ]
    query = "SELECT run_id, execution, name, growth, started, made, cached FROM executions"
    assert ask(tmp_path, query) == wanted
    with open_store(tmp_path) as store:
        assert resolve_run(store, "nightly") == runs[1]
    execute(tmp_path, first, "nightly", 2)
    assert ask(tmp_path, query)[:2] == wanted
    with open_store(tmp_path) as store:
        assert resolve_run(store, "nightly") == runs[0]
