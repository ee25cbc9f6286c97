"""The store's file opens in DuckDB since 1.2, and comes to that from what newer ones wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from support.store_artifacts import plant

from deconstruct.store import export_run, open_store, publish
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import RELATIONS


def storage(file: Path) -> str:
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{file}' AS store (READ_ONLY)")
        found = connection.execute(
            "SELECT tags['storage_version'] FROM duckdb_databases() WHERE database_name = 'store'"
        ).fetchall()
    return str(found[0][0])


def in_the_newest(file: Path) -> None:
    """Write a store anew as DuckDB does by default, with a table and a view of the user's own."""
    old = file.with_name("old.duckdb")
    file.rename(old)
    with duckdb.connect(file) as connection:
        connection.execute(f"ATTACH '{old}' AS old (READ_ONLY)")
        connection.execute("COPY FROM DATABASE old TO deconstruct")
        connection.execute("CREATE TABLE notes AS SELECT 7 AS latent, 'goals' AS note")
        connection.execute("CREATE VIEW noted AS SELECT * FROM notes JOIN features USING (latent)")
    old.unlink()
    assert storage(file) != "v1.2.0+"


def test_files_are_in_the_storage_that_most_programs_read(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    run = publish(tmp_path, planted.record, planted.artifacts)
    export_run(tmp_path, run, tmp_path / "one.duckdb")
    assert storage(tmp_path / FILE) == storage(tmp_path / "one.duckdb") == "v1.2.0+"


def test_a_newer_storage_is_left_with_the_next_publish(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with open_store(tmp_path) as store:
        before = {
            r.name: store.execute(f"SELECT * FROM {r.name} ORDER BY ALL").fetchall()
            for r in RELATIONS
            if r.name != "meta"
        }
    in_the_newest(tmp_path / FILE)
    other = plant(tmp_path, "other", seed=1)
    publish(tmp_path, other.record, other.artifacts)
    assert storage(tmp_path / FILE) == "v1.2.0+"
    with open_store(tmp_path) as store:
        for name, rows in before.items():
            assert set(map(repr, rows)) <= set(
                map(repr, store.execute(f"SELECT * FROM {name}").fetchall())
            )
        assert store.execute("SELECT note FROM noted LIMIT 1").fetchall() == [("goals",)]
        comments = store.execute(
            "SELECT count(*) FROM duckdb_columns() WHERE NOT internal AND comment IS NULL "
            "AND table_name NOT IN ('notes', 'noted')"
        ).fetchall()
        assert comments == [(0,)]
    with pytest.raises(duckdb.ConstraintException), duckdb.connect(tmp_path / FILE) as store:
        store.execute("INSERT INTO runs SELECT * FROM runs")
    assert not list(tmp_path.glob(".*draft*"))


def test_without_its_artifacts_a_store_stays_as_it_is(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    in_the_newest(tmp_path / FILE)
    for folder in ("corpus", "latents", "evaluation"):
        shutil.rmtree(tmp_path / folder)
    again = plant(tmp_path, "other", seed=1)
    publish(tmp_path, again.record, again.artifacts)
    with open_store(tmp_path, verify=False) as store:
        assert store.execute("SELECT note FROM notes").fetchall() == [("goals",)]
        assert store.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
    assert not list(tmp_path.glob(".*draft*"))
