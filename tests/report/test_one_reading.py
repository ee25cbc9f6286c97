"""What the report says of clusters and errors is what the explorer says: one reading of both."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest
from support.store_artifacts import plant

from deconstruct.report.reading.corpus.clusters import clusters
from deconstruct.report.reading.corpus.labels import errors
from deconstruct.report.sections import documents, labels
from deconstruct.report.sections.look import Look
from deconstruct.store import open_store, publish, run_id_of


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Look]:
    home = tmp_path_factory.mktemp("read")
    run = plant(home, documents=60)
    publish(home, run.record, run.artifacts)
    with open_store(home, files=False) as store:
        yield Look(store, run_id_of(run.artifacts))


def test_clusters(look: Look) -> None:
    store: duckdb.DuckDBPyConnection = look.store
    cards = documents.clusters(look)["cards"]
    found = clusters(store, look.run_id)
    assert [card["cluster"] for card in cards] == [one.cluster for one in found]
    for card, one in zip(cards, found, strict=True):
        assert card["typical"] == one.exemplars
        assert card["odd"] == one.odd != []
        assert not {doc.doc_id for doc in card["odd"]} & {doc.doc_id for doc in card["typical"]}
        # Of other labels first: what makes one ask why it is here.
        of_it = [doc.label == one.top_label for doc in card["odd"]]
        assert of_it == sorted(of_it)


def test_errors(look: Look) -> None:
    rows = labels._errors(look)
    found, _ = errors(look.store, look.run_id, most=labels.ERRORS)
    assert rows
    assert [row["doc_id"] for row in rows] == [one.document.doc_id for one in found]
    assert [row["pushed_by"] for row in rows] == [one.pushed_by for one in found]
    assert all(row["text"] for row in rows)
