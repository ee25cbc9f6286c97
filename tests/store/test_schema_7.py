"""A store of schema 6 has no maps, and takes them when a run brings some."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from support.looked_at import maps
from support.old_stores import SINCE_6, TO_VERSION_6
from support.planted import artifact_of, filled
from support.store_artifacts import plant

from deconstruct.artifacts import DataRoot, Recipe
from deconstruct.map.tables import MASSIVE_TOKENS
from deconstruct.store import open_store, publish
from deconstruct.store.publish import publish_beside, run_id_of
from deconstruct.store.rewrite import FILE


def counted(home: Path) -> dict[str, int]:
    with open_store(home) as store:
        found = {name: store.execute(f"SELECT count(*) FROM {name}").fetchone() for name in SINCE_6}
    return {name: row[0] for name, row in found.items() if row is not None}


@pytest.mark.parametrize("published", [False, True])
def test_runs_of_before_have_no_rows_and_show_all_else(tmp_path: Path, published: bool) -> None:
    planted = plant(tmp_path)
    without = {stage: one for stage, one in planted.artifacts.items() if stage != "map"}
    run = publish(tmp_path, planted.record, without)
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute(TO_VERSION_6)
    if published:  # else it is read as it is
        later = plant(tmp_path, "later", seed=1)
        publish(tmp_path, later.record, {k: v for k, v in later.artifacts.items() if k != "map"})
    assert counted(tmp_path) == dict.fromkeys(SINCE_6, 0)
    with open_store(tmp_path) as store:
        assert store.execute("FROM top_contexts(?, 7, n := 1)", [run]).fetchall()
    if published:
        publish_beside(tmp_path, run, planted.artifacts["map"])
        assert all(counted(tmp_path).values())
        with open_store(tmp_path) as store:
            assert store.execute("SELECT DISTINCT task FROM label_latents").fetchall() == [
                ("label",)
            ]


def test_a_map_does_not_change_a_run_and_stays_when_it_is_published_without(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    without = {stage: one for stage, one in planted.artifacts.items() if stage != "map"}
    run = publish(tmp_path, planted.record, planted.artifacts)
    assert run == run_id_of(without)
    before = counted(tmp_path)
    assert all(before.values())
    assert publish(tmp_path, planted.record, without) == run
    assert counted(tmp_path) == before


def test_a_map_of_other_settings_takes_the_place_of_the_first(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    run = publish(tmp_path, planted.record, planted.artifacts)
    tables = {**maps(planted)} | {
        MASSIVE_TOKENS: filled(MASSIVE_TOKENS, token_id=[1, 2], token="x")
    }
    other = artifact_of(DataRoot(tmp_path), Recipe("map", 1, {"seed": 5}, {}), tables)
    publish(tmp_path, planted.record, planted.artifacts | {"map": other})
    with open_store(tmp_path) as store:
        keys = store.execute(
            "SELECT key FROM stages WHERE run_id = ? AND stage = 'map'", [run]
        ).fetchall()
        assert keys == [(other.key,)]
        assert store.execute("SELECT count(*) FROM massive_tokens").fetchall() == [(2,)]
