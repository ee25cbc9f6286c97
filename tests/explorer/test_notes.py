"""Stars and notes: kept beside the store, found again by every run of the same autoencoder."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from support.hostile import HOSTILE
from support.store_artifacts import plant
from typer.testing import CliRunner

from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.explorer.app import Explorer
from deconstruct.explorer.notes import FILE, LONGEST, About, Changed, Notes
from deconstruct.store import collect, garbage, publish, remove_runs
from deconstruct.store.query import QueryError

ABOUT = About("5ae", 7, "0123456789ab", "demo", "9.resid_post", " goal")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    assert notes.all() == []
    notes.star(ABOUT, True)
    notes.write(ABOUT, "goals", "")
    notes.write(ABOUT._replace(latent=2), "other", "")
    (first, second) = notes.all()
    assert (first.latent, first.starred, first.text, first.run) == (7, True, "goals", "demo")
    assert (second.latent, second.starred) == (2, False)
    assert set(notes.of("5ae")) == {7, 2}
    assert notes.one("5ae", 7) == first
    assert notes.one("other", 7) is None
    notes.write(ABOUT._replace(latent=2), "", second.changed)
    assert [note.latent for note in notes.all()] == [7]
    notes.star(ABOUT, False)
    notes.write(ABOUT, "", first.changed)
    assert notes.all() == []


def test_what_another_tab_wrote_is_not_lost(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.write(ABOUT, "first", "")
    seen = notes.all()[0].changed
    notes.write(ABOUT, "second", seen)
    with pytest.raises(Changed) as changed:
        notes.write(ABOUT, "mine", seen)
    assert changed.value.note.text == "second"
    with pytest.raises(QueryError, match="characters at most"):
        notes.write(ABOUT, "x" * (LONGEST + 1), seen)
    notes.star(ABOUT, True)  # a star is no change of the text
    notes.write(ABOUT, "mine", changed.value.note.changed)
    assert notes.all()[0].text == "mine"


def _write(home: Path, first: int) -> None:
    for number in range(first, first + 20):
        Notes(home).write(ABOUT._replace(latent=number), f"note {number}", "")
        Notes(home).star(ABOUT._replace(latent=number), True)


def test_threads_and_processes_write_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_write, args=(tmp_path, 100 * n)) for n in (1, 2)]
    for other in others:
        other.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: _write(tmp_path, 100 * n), (3, 4, 5, 6)))
    for other in others:
        other.join(120)
        assert other.exitcode == 0
    found = Notes(tmp_path).all()
    assert len(found) == 120
    assert all(note.starred and note.text == f"note {note.latent}" for note in found)


def test_a_file_of_somebody_elses_does_nothing(tmp_path: Path) -> None:
    Notes(tmp_path).star(ABOUT, True)
    with sqlite3.connect(tmp_path / FILE) as theirs:
        theirs.execute("CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes; END")
    with pytest.raises(StorageError, match="more than notes"):
        Notes(tmp_path).all()
    with pytest.raises(StorageError, match="more than notes"):
        Notes(tmp_path).star(ABOUT, True)
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="move the file away"):
        Notes(tmp_path).all()


def test_notes_outlive_publishes_reruns_removals_and_gc(tmp_path: Path) -> None:
    run = plant(tmp_path)
    publish(tmp_path, run.record, run.artifacts)
    explorer = Explorer(tmp_path)
    with TestClient(explorer.application(), base_url="http://127.0.0.1:4300") as client:
        form = {"token": explorer.token, "what": "note", "text": "about goals\r\nand matches"}
        at = "/run/demo/latent/7"
        answer = client.post(f"{at}/note", data=form)  # on to the latent again
        assert answer.url.path.endswith("/latent/7")
        assert "about goals\nand matches</textarea>" in answer.text
        star = {"token": explorer.token, "what": "star", "starred": "1"}
        assert "★ starred" in client.post(f"{at}/note", data=star).text
        again = client.post(f"{at}/note", data={**form, "text": "mine"})
        assert again.status_code == 409
        assert "about goals" in again.text
        assert "mine" in again.text

        publish(tmp_path, run.record, run.artifacts)
        assert "about goals" in client.get(at).text
        other = plant(tmp_path, "other", seed=1)
        publish(tmp_path, other.record, other.artifacts)
        assert "about goals" not in client.get("/run/other/latent/7").text
        assert "★" in client.get("/run/demo/latents?starred=1").text
        remove_runs(tmp_path, ["demo"])
        collect(tmp_path, garbage(tmp_path, unused_hours=0.0))
        listed = client.get("/notes").text
        assert "about goals" in listed
        assert "no longer in the store" in listed
        publish(tmp_path, (back := plant(tmp_path)).record, back.artifacts)
        assert "about goals" in client.get(at).text


def test_notes_are_taken_out(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    for number, text in enumerate(HOSTILE.values()):
        notes.write(ABOUT._replace(latent=number), text or "x", "")

    def told(*options: str) -> str:
        done = CliRunner().invoke(app, ["notes", "--home", str(tmp_path), *options])
        assert done.exit_code == 0, done.output
        return done.output

    rows = json.loads(told("--format", "json"))
    assert {row["text"] for row in rows} == {text or "x" for text in HOSTILE.values()}
    told("--output", str(tmp_path / "notes.parquet"))
    assert pq.read_table(tmp_path / "notes.parquet").num_rows == len(HOSTILE)
    safe = list(csv.reader(io.StringIO(told("--format", "csv", "--safe"), newline="")))
    assert not [row for row in safe if row[3].startswith("=")]
    assert "demo" in told()
    run = plant(tmp_path)
    publish(tmp_path, run.record, run.artifacts)
    with TestClient(Explorer(tmp_path).application(), base_url="http://127.0.0.1:4300") as client:
        found = client.get("/notes.csv")
        assert "attachment" in found.headers["content-disposition"]
        assert not [
            row for row in csv.reader(io.StringIO(found.text, newline="")) if row[3][:1] == "="
        ]
        assert "<script>" not in client.get("/notes").text.replace("<script src", "")


def test_a_number_of_others_that_is_none_is_said(tmp_path: Path) -> None:
    Notes(tmp_path).star(ABOUT, True)
    with sqlite3.connect(tmp_path / FILE) as theirs:
        theirs.execute("UPDATE notes SET latent = 'seven'")
    theirs.close()
    with pytest.raises(StorageError, match="move the file away"):
        Notes(tmp_path).all()
