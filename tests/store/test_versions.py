"""Stores of older and newer releases."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from support.old_stores import SINCE_4, TO_VERSION_4
from support.store_artifacts import SPORT_LATENT, plant

from deconstruct.common.errors import StorageError
from deconstruct.store import open_store, publish
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import RELATIONS, SCHEMA_VERSION, Relation

TO_VERSION_1 = f"""
{TO_VERSION_4}
DROP VIEW feature_logits;
DROP TABLE names;
DROP TABLE executions;
DROP VIEW directions;
CREATE TABLE feature_logits (run_id VARCHAR, latent UINTEGER, direction VARCHAR, rank UINTEGER,
    token_id UINTEGER, token VARCHAR, logit FLOAT, PRIMARY KEY (run_id, latent, direction, rank));
DROP MACRO TABLE latent_across_runs;
DROP MACRO TABLE label_enrichment;
DELETE FROM meta WHERE name = 'publication';
UPDATE meta SET value = '1' WHERE name = 'schema_version';
"""


def store_of_version_1(home: Path) -> Path:
    """A store as schema 1 had it, with a table of the user's own in it."""
    planted = plant(home)
    publish(home, planted.record, planted.artifacts)
    with duckdb.connect(home / FILE) as connection:
        connection.execute(TO_VERSION_1)
        connection.execute("CREATE TABLE notes AS SELECT 7 AS latent, 'goals' AS note")
    return home / FILE


def columns_of(relation: Relation) -> str:
    """The columns that schema 4 had, as SQL."""
    return ", ".join(
        column.name
        for column in relation.columns
        if not {column.name, f"{relation.name}.{column.name}"} & {*SINCE_4}
    )


def rows(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """All rows of all relations that are about the first run."""
    run = connection.execute("SELECT run_id FROM runs WHERE name = 'demo'").fetchall()[0][0]
    return {
        relation.name: sorted(
            map(
                repr,
                connection.execute(
                    f"SELECT {columns_of(relation)} FROM {relation.name} WHERE run_id = ?",
                    [run],
                ).fetchall(),
            )
        )
        for relation in RELATIONS
        if relation.name
        not in ("meta", "directions", "feature_logits", "names", "executions", *SINCE_4)
    }


def test_an_older_store_is_read_in_full_and_not_touched(tmp_path: Path) -> None:
    file = store_of_version_1(tmp_path)
    with duckdb.connect(file, read_only=True) as old:
        expected = rows(old)
    before = file.read_bytes()
    with open_store(tmp_path) as store:
        assert rows(store) == expected
        assert store.execute("SELECT note FROM notes").fetchall() == [("goals",)]
        assert store.execute("FROM label_enrichment('demo')").fetchall()[0][0] == SPORT_LATENT
        assert store.execute("FROM latent_across_runs('demo', 7)").fetchall() == []
        assert store.execute("SELECT count(*) FROM feature_logits").fetchall() == [(2,)]
    assert file.read_bytes() == before


def test_an_older_store_loses_nothing_by_the_next_publish(tmp_path: Path) -> None:
    file = store_of_version_1(tmp_path)
    with duckdb.connect(file, read_only=True) as old:
        expected = rows(old)
    later = plant(tmp_path, "later", seed=1)
    publish(tmp_path, later.record, later.artifacts)
    with duckdb.connect(file, read_only=True) as new:
        assert rows(new) == expected
        assert new.execute("SELECT note FROM notes").fetchall() == [("goals",)]
        assert new.execute("SELECT name FROM runs ORDER BY published").fetchall() == [
            ("demo",),
            ("later",),
        ]
        version = new.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchall()
        assert version == [(str(SCHEMA_VERSION),)]


def test_a_store_whose_artifacts_lack_newer_files_has_empty_views(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute(TO_VERSION_1)
    planted.artifacts["latents"].file("directions.parquet").unlink()
    planted.artifacts["evaluation"].file("feature_logits.parquet").unlink()
    with open_store(tmp_path, verify=False) as store:
        assert store.execute("SELECT run_id, decoder FROM directions").fetchall() == []
        assert store.execute("FROM feature_logits").fetchall() == []
        assert len(store.execute("FROM top_contexts('demo', 7)").fetchall()) == 20


def test_a_newer_store_is_refused_with_the_way_out(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    before = (tmp_path / FILE).read_bytes()
    for attempt in (
        lambda: open_store(tmp_path),
        lambda: publish(tmp_path, planted.record, planted.artifacts),
    ):
        with pytest.raises(StorageError, match=r"schema 99; .* pip install -U deconstruct"):
            attempt()
    assert (tmp_path / FILE).read_bytes() == before
