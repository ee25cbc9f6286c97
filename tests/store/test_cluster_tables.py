"""Clusters in the store: what stands beside them for comparison is not taken for them."""

from __future__ import annotations

from pathlib import Path

import duckdb
from support.old_stores import TO_VERSION_5
from support.store_artifacts import plant

from deconstruct.store import open_store, publish
from deconstruct.store.rewrite import FILE


def test_clusters_of_schema_5_stay_what_they_were(tmp_path: Path) -> None:
    """Their scores are values of latents; what was not measured then is null."""
    planted = plant(tmp_path)
    publish(tmp_path, planted.record, planted.artifacts)
    with duckdb.connect(tmp_path / FILE) as old:
        old.execute(TO_VERSION_5)
        expected = old.execute("SELECT metric, value FROM cluster_metrics ORDER BY ALL").fetchall()
        documents = old.execute("SELECT count(*) FROM clusters").fetchall()
    assert len(expected) == 4
    with open_store(tmp_path) as store:
        assert (
            expected
            == store.execute(
                "SELECT metric, value FROM cluster_metrics "
                "WHERE representation = 'latents' AND kind = 'value' ORDER BY ALL"
            ).fetchall()
        )
        assert store.execute("SELECT count(*) FROM cluster_metrics").fetchall() == [(4,)]
        assert store.execute("SELECT DISTINCT support FROM clusters").fetchall() == [(None,)]
        assert store.execute("SELECT DISTINCT jaccard FROM cluster_summary").fetchall() == [(None,)]
        assert store.execute("SELECT count(*) FROM clusters").fetchall() == documents
        for newer in ("cluster_curve", "latent_clusters"):
            assert store.execute(f"FROM {newer}").fetchall() == []
    later = plant(tmp_path, "later", seed=1)
    publish(tmp_path, later.record, later.artifacts)
    with duckdb.connect(tmp_path / FILE, read_only=True) as new:
        kinds = "SELECT kind, count(*) FROM cluster_metrics GROUP BY kind ORDER BY kind"
        assert new.execute(kinds).fetchall() == [("null", 1), ("stability", 1), ("value", 8)]
        keyed = new.execute(
            "SELECT constraint_column_names FROM duckdb_constraints() "
            "WHERE table_name = 'cluster_metrics' AND constraint_type = 'PRIMARY KEY'"
        ).fetchall()
    assert keyed == [(["run_id", "representation", "kind", "metric"],)]


def test_baselines_and_nulls_are_not_the_runs_clusters(tmp_path: Path) -> None:
    """A metric has several rows of a run: headlines and comparisons read one of them."""
    for name in ("a", "b"):
        planted = plant(tmp_path, name, seed=ord(name))
        publish(tmp_path, planted.record, planted.artifacts)
    with open_store(tmp_path) as store:
        assert store.execute("SELECT DISTINCT nmi FROM runs").fetchall() == [(0.6,)]
        compared = store.execute(
            "SELECT metric, value_a FROM compare_runs('a', 'b') WHERE stage = 'cluster' "
            "ORDER BY metric"
        ).fetchall()
        assert compared == [("ari", 0.5), ("nmi", 0.6), ("purity", 0.8), ("silhouette", 0.1)]
        found = store.execute("SELECT DISTINCT support FROM documents_in_cluster('a', 0)")
        assert found.fetchall() == [(0.9,)]
