"""Scores of probes in the store: those of schema 5, and the questions that are asked of them."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from support.old_stores import TO_VERSION_5
from support.store_artifacts import plant

from deconstruct.store import export_run, open_store, publish
from deconstruct.store.rewrite import FILE

PREDICTIONS = "SELECT * EXCLUDE probability FROM probe_predictions ORDER BY ALL"
SURE = "SELECT probability FROM probe_predictions ORDER BY ALL"


def test_a_store_of_schema_5_is_brought_up_to_date(tmp_path: Path) -> None:
    """Predictions of before are what they were; what probes did not say then is null."""
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with open_store(tmp_path) as store:
        expected, sure = store.execute(PREDICTIONS).fetchall(), store.execute(SURE).fetchall()
        probes = store.execute("SELECT * EXCLUDE (target, seed) FROM probes").fetchall()
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute(TO_VERSION_5)
    with open_store(tmp_path) as store:
        assert store.execute(PREDICTIONS).fetchall() == expected
        assert store.execute(SURE).fetchnumpy()["probability"] == pytest.approx(np.ravel(sure))
        assert store.execute("SELECT * EXCLUDE (target, seed) FROM probes").fetchall() == probes
        assert store.execute("SELECT DISTINCT target, seed FROM probes").fetchall() == [
            (None, None)
        ]
        measures = "SELECT DISTINCT measure FROM probe_parts([resolve_run('demo')])"
        assert store.execute(measures).fetchall() == [("accuracy",)]
        assert store.execute("FROM probe_curve").fetchall() == []
        assert len(store.execute("FROM probe_table('demo')").fetchall()) == 4
    later = plant(tmp_path, "later", seed=1)
    publish(tmp_path, later.record, later.artifacts)
    with open_store(tmp_path) as store:
        mine = "SELECT p.* EXCLUDE probability FROM probe_predictions AS p JOIN runs AS r "
        mine += "USING (run_id) WHERE r.name = 'demo' ORDER BY ALL"
        assert store.execute(mine).fetchall() == expected


def test_an_exported_run_has_its_predictions(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    export_run(tmp_path, "demo", tmp_path / "run.duckdb")
    with open_store(tmp_path) as store, duckdb.connect(tmp_path / "run.duckdb") as exported:
        for query in (PREDICTIONS, "FROM probe_table('demo')"):
            assert exported.execute(query).fetchall() == store.execute(query).fetchall() != []


def test_the_mean_of_the_parts_is_the_score(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with open_store(tmp_path) as store:
        found = store.execute(
            "SELECT representation, k, label, measure, avg(part) "
            "FROM probe_parts([resolve_run('demo')]) GROUP BY ALL"
        ).fetchall()
        scores = store.execute(
            "SELECT representation, k, target, list(score), list(truth) FROM probe_scores "
            "GROUP BY ALL"
        ).fetchall()
    areas = {key[:3]: value for *key, measure, value in found for key in [tuple(key)]
             if measure == "auroc"}  # fmt: skip
    for representation, k, target, score, truth in scores:
        expected = roc_auc_score(truth, score)
        assert areas[representation, k, target] == pytest.approx(expected), (representation, k)
    assert areas["tfidf", None, None] == 1
    assert areas["majority", None, None] == 0.5
    assert {m for *_, m, _ in found} == {"accuracy", "auroc", "balanced_accuracy"}
