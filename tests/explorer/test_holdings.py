"""What documents hold: beside a plain count in SQL, kept or not, in little memory, read once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from explorer.conftest import Explored
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from benchmarks.store_synthetic import Size, make
from deconstruct.explorer import stores
from deconstruct.explorer.app import Explorer
from deconstruct.explorer.ready import Ready
from deconstruct.explorer.stores import Stores
from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus import holdings as holding
from deconstruct.report.reading.corpus.holdings import Holdings, holdings
from deconstruct.report.reading.corpus.marks import marks
from deconstruct.store import open_store, publish, run_id_of

PLAIN_LATENTS = """
SELECT latent, sum(mean::DOUBLE) AS s, sum(mean::DOUBLE * mean) AS q, count(*) AS n
FROM document_latents WHERE run_id = $run AND doc_id IN (SELECT unnest($documents)) GROUP BY latent
"""
PLAIN_TOKENS = """
SELECT token, count(DISTINCT doc_id) FROM tokens
WHERE run_id = $run AND NOT special AND doc_id IN (SELECT unnest($documents)) GROUP BY token
"""
LITTLE = {"memory_limit": "32MB"}
"""In which different tokens of the large run's documents have no place in DuckDB; ours need 20."""
DIFFERENT = "SELECT count(*) FROM (SELECT DISTINCT doc_id, token FROM tokens WHERE run_id = ?)"


@pytest.fixture(scope="module")
def store(explored: Explored) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(explored.home, files=False) as connection:
        yield connection


@pytest.fixture(scope="module")
def both(store: duckdb.DuckDBPyConnection, explored: Explored) -> tuple[Holdings, Holdings]:
    """One that is kept, and one that is read anew each time."""
    return holdings(store, explored.ids[0]), holdings(store, explored.ids[0], most_bytes=0)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with a run of many small parts, and its id."""
    home = tmp_path_factory.mktemp("large")
    run = make(home, Size(700_000, d_sae=512, l0=2, latents_in_document=16))
    publish(home, run.record, run.artifacts)
    return home, run_id_of(run.artifacts)


@settings(max_examples=10, deadline=None)
@given(chosen=st.sets(st.integers(0, 59), min_size=1, max_size=59))
def test_counts_are_those_of_plain_sql(
    chosen: set[int],
    store: duckdb.DuckDBPyConnection,
    explored: Explored,
    both: tuple[Holdings, Holdings],
) -> None:
    inside = np.isin(np.arange(60), list(chosen))
    asked = {"run": explored.ids[0], "documents": sorted(chosen)}
    plain = {latent: row for latent, *row in store.execute(PLAIN_LATENTS, asked).fetchall()}
    tokens = dict(store.execute(PLAIN_TOKENS, asked).fetchall())
    for known in both:
        sums = known.sums_of(store, inside)
        there = np.flatnonzero(sums.documents)
        assert there.tolist() == sorted(plain)
        for latent in there.tolist():
            found = [part[latent] for part in sums]
            assert found == pytest.approx(plain[latent], rel=1e-12)
        counts = known.tokens_of(store, inside)
        assert {known.words[at]: counts[at] for at in np.flatnonzero(counts)} == tokens
    kept, streamed = (marks(store, explored.ids[0], sorted(chosen), known) for known in both)
    assert kept == streamed  # to the last digit


def test_what_is_too_large_is_not_kept(both: tuple[Holdings, Holdings]) -> None:
    kept, streamed = both
    assert kept.kept_latents
    assert kept.kept_tokens
    assert kept.size > 0
    assert streamed.kept_latents is None
    assert streamed.kept_tokens is None
    assert streamed.size == 0
    assert kept.words == streamed.words


def test_documents_keep_their_order_whatever_part_of_a_file_comes_first(
    large: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run_id = large
    monkeypatch.setattr(holding, "ROWS", 30_000)
    with open_store(home, files=False) as store:
        for known in (holdings(store, run_id), holdings(store, run_id, most_bytes=0)):
            documents = np.concatenate([block.documents for block in known.latents(store)])
            assert documents.tolist() == list(range(known.total))
            assert len(list(known.latents(store))) > 2
        ours = [marks(store, run_id, range(5, 5000, 7), holdings(store, run_id)) for _ in range(3)]
    assert ours[0] == ours[1] == ours[2]


def test_rows_that_come_in_stretches_are_put_in_order() -> None:
    doc_id = np.repeat(np.arange(50, dtype=np.uint32), 3)
    row = np.arange(150)
    for order in (row, np.r_[90:150, 0:31, 31:90], np.r_[60:61, 0:60, 61:150], row[::-1]):
        found, own = holding._in_order(doc_id[order], row[order])
        assert found.tolist() == doc_id.tolist()
        assert sorted(own.tolist()) == row.tolist()
        assert (doc_id[own] == doc_id).all()


def test_a_large_run_is_answered_in_little_memory(
    large: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its tokens were counted by text and document in SQL, the page had status 400."""
    home, run_id = large
    with open_store(home, files=False) as store:
        plenty = marks(store, run_id, range(0, 5000, 5))
    with open_store(home, files=False, limits=LITTLE) as store:
        with pytest.raises(duckdb.OutOfMemoryException):
            store.execute(DIFFERENT, [run_id]).fetchall()
        assert marks(store, run_id, range(0, 5000, 5)) == plenty
    monkeypatch.setattr(stores, "LIMITS", LITTLE)
    explorer = Explorer(home, 4300)
    with TestClient(explorer.application(), base_url="http://127.0.0.1:4300") as client:
        for address in ("marks?label=sport", "marks?cluster=1"):
            answer = client.get(f"/run/{run_id}/map/{address}")
            assert answer.status_code == 200
            assert "What marks these" in answer.text


def test_a_page_does_not_wait_for_what_takes_seconds(explored: Explored) -> None:
    """What marks a selection comes after the page until it is ready; without scripts, at once."""
    explorer = Explorer(explored.home, 4300)
    base = f"/run/{explored.ids[0]}/map"
    with TestClient(explorer.application(), base_url="http://127.0.0.1:4300") as client:
        first = client.get(f"{base}?cluster=1").text
        assert "What marks these documents</a>" in first
        assert f'data-load="{base}/marks?cluster=1"' in first
        assert f'href="{base}?cluster=1&amp;now=yes#marked"' in first
        assert "against all others" in client.get(f"{base}?cluster=1&now=yes").text
        assert "against all others" in client.get(f"{base}?cluster=1").text


def test_a_run_is_read_once_and_the_oldest_makes_room(explored: Explored) -> None:
    opened = Stores(explored.home)
    with opened.cursor() as (store, _):
        sizes = [holdings(store, run_id).size for run_id in explored.ids]
        ready = Ready(opened, most_bytes=sum(sizes) - 1)
        first = ready.of(store, explored.ids[0])
        assert ready.of(store, explored.ids[0]) is first
        assert ready.of(store, explored.ids[1]).run_id == explored.ids[1]
        assert ready.of(store, explored.ids[0]) is not first
        with pytest.raises(Missing, match="no latents"):
            ready.of(store, "no such run")
    opened.close()


def test_a_run_is_read_while_nobody_waits(explored: Explored) -> None:
    opened = Stores(explored.home)
    ready = Ready(opened)
    ready.begin(explored.ids[0])
    for thread in threading.enumerate():
        if thread.name.startswith("ready "):
            thread.join()
    assert ready.there(explored.ids[0]) is not None
    ready._read("no such run")  # says nothing
    opened.close()
