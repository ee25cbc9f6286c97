"""Clusters: who they are, which documents are odd, and what is said of weak ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from explorer.conftest import Explored
from starlette.testclient import TestClient

from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.clusters import Cluster, Massive, TopLatent, beside, clusters
from deconstruct.store import open_store


@pytest.fixture(scope="module")
def store(explored: Explored) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(explored.home, files=False) as connection:
        yield connection


def test_each_cluster_has_a_card(client: TestClient, explored: Explored) -> None:
    text = client.get(f"/run/{explored.ids[0]}/clusters").text
    assert re.findall(r'id="cluster-(\d)"', text) != []
    assert set(re.findall(r'id="cluster-(\d)"', text)) == {"0", "1", "2"}
    assert f'/run/{explored.ids[0]}/map?cluster=1"' in text
    assert "DROP TABLE" in text
    assert "not held-out ones alone" in text


def test_counts_are_those_that_were_planted(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    demo = explored.demo
    for one in clusters(store, explored.ids[0]):
        inside = [d for d in range(len(demo.labels)) if demo.clusters[d] == one.cluster]
        assert one.size == len(inside)
        assert dict(one.mix) == {
            label: sum(demo.labels[d] == label for d in inside)
            for label in {demo.labels[d] for d in inside}
        }
        assert {doc.doc_id for doc in one.odd} <= set(inside)
        assert not {doc.doc_id for doc in one.exemplars} & {doc.doc_id for doc in one.odd}
        other = [d for d in inside if demo.labels[d] != one.top_label]
        if len(other) >= 3:
            assert {doc.doc_id for doc in one.odd} <= set(other)


def test_what_a_cluster_is_made_of_is_said() -> None:
    massive = TopLatent(9, "’", Massive("’", 3000.0, 1.0))
    plain = TopLatent(1, " the", None)
    rest: tuple[Any, ...] = (0, 5, "tech", 0.8, ["chip"])

    def of(latents: list[TopLatent], jaccard: float | None) -> Cluster:
        return Cluster(*rest, latents, [], [], [("tech", 4)], jaccard, 0.9)

    assert of([massive, massive, plain], 0.9).ruling == massive.massive
    assert of([massive, plain], 0.9).ruling is None
    assert [of([], value).stability for value in (0.8, 0.7, 0.5, None)] == [
        "stable", "fair", "weak", "",
    ]  # fmt: skip


def test_a_weak_cluster_is_better_not_named(client: TestClient, explored: Explored) -> None:
    with open_store(explored.home, files=False) as store:
        weak = [one for one in clusters(store, explored.ids[0]) if one.stability == "weak"]
    text = client.get(f"/run/{explored.ids[0]}/clusters").text
    assert text.count("Better not named") == len(weak)


def test_other_clusterings_stand_beside(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    assert all(row.latents is not None for row in beside(store, explored.ids[0]))
    with pytest.raises(Missing, match="no clusters"):
        clusters(store, "none")
