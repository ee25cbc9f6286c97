"""A store of schema 5 comes to schema 6 with what it had."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from support.old_stores import TO_VERSION_5
from support.store_artifacts import plant

from deconstruct.store import open_store, publish
from deconstruct.store.rewrite import FILE


def measured(store: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, float]]:
    found = store.execute(
        "SELECT m.metric, m.text, m.value FROM sae_metrics AS m JOIN runs AS r USING (run_id) "
        "WHERE r.name = 'demo'"
    ).fetchall()
    return {metric: (text, value) for metric, text, value in found}


@pytest.mark.parametrize("published", [False, True])
def test_metrics_of_before_are_of_the_own_text_under_the_names_of_now(
    tmp_path: Path, published: bool
) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with open_store(tmp_path) as store:
        expected = measured(store)
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute(TO_VERSION_5)
        old = {name for (name,) in connection.execute("SELECT metric FROM sae_metrics").fetchall()}
    assert "loss_recovered" in old
    if published:  # else it is read as it is
        later = plant(tmp_path, "later", seed=1)
        publish(tmp_path, later.record, later.artifacts)
    with open_store(tmp_path) as store:
        assert measured(store) == expected
        assert expected["loss_recovered_bos_kept"] == ("own", 0.95)
        drifted = store.execute(
            "SELECT DISTINCT metric FROM drift WHERE subject = 'reconstruction'"
        ).fetchall()
        assert drifted == [("fvu_train_mean",)]
        assert store.execute(
            "SELECT loss_recovered_bos_kept FROM runs WHERE name = 'demo'"
        ).fetchall() == [(0.95,)]
        for empty in ("document_metrics", "document_losses"):
            assert store.execute(
                f"SELECT count(*) FROM {empty} JOIN runs USING (run_id) WHERE name = 'demo'"
            ).fetchall() == [(0,)]
