"""Notes, and answers that people save, have an end; what has been saved is never lost by it."""

from __future__ import annotations

import csv
import io
import re
import tracemalloc
from functools import partial
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from support.store_artifacts import plant

from deconstruct.explorer import downloads, notes
from deconstruct.explorer.app import Explorer
from deconstruct.explorer.notes import About, Notes, Refused
from deconstruct.explorer.pages import sql
from deconstruct.store import publish

ABOUT = About("5ae", 7, "0123456789ab", "demo", "9.resid_post", " goal")


def test_notes_and_stars_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MOST", 3)
    monkeypatch.setattr(notes, "ROOM", 100)
    kept = Notes(tmp_path)
    for latent in range(3):
        kept.write(ABOUT._replace(latent=latent), "x" * 30, "")
    before = kept.all()
    with pytest.raises(Refused, match=r"3 stars and notes, the most.*notes --output.*clear some"):
        kept.star(ABOUT, True)
    with pytest.raises(Refused, match="3 stars and notes"):
        kept.write(ABOUT, "one more", "")
    seen = kept.one("5ae", 1)
    assert seen is not None
    with pytest.raises(Refused, match=r"100 characters at most.*notes --output"):
        kept.write(ABOUT._replace(latent=1), "x" * 41, seen.changed)
    assert kept.all() == before
    kept.write(ABOUT._replace(latent=1), "x" * 40, seen.changed)  # all there is room for
    kept.star(ABOUT._replace(latent=1), True)  # of one that is there
    seen = kept.one("5ae", 1)
    assert seen is not None
    kept.write(ABOUT._replace(latent=1), "shorter", seen.changed)
    kept.star(ABOUT._replace(latent=1), False)
    kept.write(ABOUT._replace(latent=0), "", {one.latent: one.changed for one in before}[0])
    kept.star(ABOUT, True)
    assert {one.latent for one in kept.all()} == {1, 2, 7}


def test_what_was_saved_under_other_bounds_is_read_and_can_be_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Notes(tmp_path)
    for latent in range(5):
        kept.write(ABOUT._replace(latent=latent), "x" * 90, "")
    monkeypatch.setattr(notes, "MOST", 3)
    monkeypatch.setattr(notes, "ROOM", 100)
    assert len(kept.all()) == 5
    one = kept.one("5ae", 2)
    assert one is not None
    kept.write(ABOUT._replace(latent=2), "x" * 80, one.changed)
    assert sum(len(one.text) for one in kept.all()) == 4 * 90 + 80


def test_a_note_that_is_refused_stands_in_the_form_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "ROOM", 50)
    run = plant(tmp_path)
    publish(tmp_path, run.record, run.artifacts)
    explorer = Explorer(tmp_path)
    with TestClient(explorer.application(), base_url="http://127.0.0.1:4300") as client:
        at = "/run/demo/latent/7/note"
        form = {"token": explorer.token, "what": "note"}
        client.post(at, data={**form, "text": "about goals"})
        seen = Notes(tmp_path).all()[0].changed
        for long, told in (("y" * 60, "50 characters"), ("y" * 20_001, "20,001; shorten it")):
            answer = client.post(at, data={**form, "text": long, "seen": seen})
            assert answer.status_code == 400
            assert told in answer.text
            assert f"\n{long}</textarea>" in answer.text
            assert f'value="{seen}"' in answer.text
        assert [one.text for one in Notes(tmp_path).all()] == ["about goals"]


def test_many_notes_come_a_page_at_a_time_and_all_as_a_file(tmp_path: Path) -> None:
    kept = Notes(tmp_path)
    for latent in range(230):
        kept.write(ABOUT._replace(latent=latent), f"note {latent:03}", "")
    run = plant(tmp_path)
    publish(tmp_path, run.record, run.artifacts)
    with TestClient(Explorer(tmp_path).application(), base_url="http://127.0.0.1:4300") as client:
        found: list[str] = []
        address = "/notes"
        while address:
            text = client.get(address).text
            found += (here := re.findall(r"note \d{3}", text))
            assert len(here) <= 100
            link = re.search(r'rel="next"[^>]*href="([^"]+)"', text)
            address = link[1] if link else ""
        assert sorted(found) == [f"note {latent:03}" for latent in range(230)]
        assert "No more" in client.get("/notes?first=1000").text
        rows = list(csv.reader(io.StringIO(client.get("/notes.csv").text, newline="")))
        assert len(rows) == 231


def test_a_list_of_latents_reads_the_beginning_of_notes_alone(tmp_path: Path) -> None:
    Notes(tmp_path).write(ABOUT, "x" * 10_000, "")
    assert len(Notes(tmp_path).of("5ae")[7].text) == notes.BRIEF


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_saved_answer_has_an_end(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    query = "SELECT hash(range) AS h FROM range(3_000_000)"
    monkeypatch.setattr(downloads, "LARGEST", 1_000_000)
    answer = client.get("/sql/file", params={"query": query, "format": kind})
    assert answer.status_code == 404
    assert "more than 1 MB" in answer.text
    assert "deconstruct sql ... --output FILE" in answer.text.replace("&#39;", "'")
    few = client.get("/sql/file", params={"query": "FROM range(9)", "format": kind})
    assert few.status_code == 200


def test_no_answer_is_held_in_memory_to_be_saved() -> None:
    with duckdb.connect() as connection:
        query = "SELECT repeat('x', 200) AS x FROM range(200_000)"
        [statement] = connection.extract_statements(query)
        tracemalloc.start()
        try:
            downloads.saved("x.csv", "text/csv", partial(sql._csv, connection, statement), "")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 15_000_000  # of forty


def test_a_saved_parquet_file_is_whole(client: TestClient) -> None:
    answer = client.get("/sql/file", params={"query": "FROM range(200_000)", "format": "parquet"})
    assert pq.read_table(io.BytesIO(answer.content)).num_rows == 200_000


def test_an_answer_shows_no_more_columns_than_can_be_read(client: TestClient) -> None:
    many = ", ".join(f"{n} AS c{n}" for n in range(500))
    page = client.get("/sql", params={"query": f"SELECT {many}"}).text
    assert page.count('<th scope="col"') == sql.BROADEST
    assert "300 columns more than are shown" in page
    file = client.get("/sql/file", params={"query": f"SELECT {many}"}).text
    assert len(file.splitlines()[0].split(",")) == 500
