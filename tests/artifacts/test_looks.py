"""Looks at files: what is digested again, what is believed, and what becomes of the record."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deconstruct.artifacts import DataRoot, Draft, Recipe, looks
from deconstruct.artifacts.looks import FOR_LONG, RECORD, Looks, Place

NAMES = ("a.bin", "b.bin")


@pytest.fixture
def places(tmp_path: Path) -> list[Place]:
    """Two files of an artifact below ``tmp_path``, an hour old."""

    def write(draft: Draft) -> None:
        for name in NAMES:
            with draft.writing(name) as path:
                path.write_bytes(name.encode() * 1000)

    made = DataRoot(tmp_path).make(Recipe("latents", 1, {}, {}), write)
    for name in NAMES:
        os.utime(made.path / name, (time.time() - 3600,) * 2)
    return [Place("latents", made.key, name) for name in NAMES]


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are digested, as they are; times of change are settled at once."""
    names: list[str] = []
    real = looks.sha256_of

    def counting(path: Path, *, again: bool = False) -> str:
        names.append(path.name)
        return real(path, again=again)

    monkeypatch.setattr(looks, "sha256_of", counting)
    monkeypatch.setattr(looks, "TICK", -1e9)
    return names


def test_a_file_is_digested_once_until_it_changes(
    tmp_path: Path, places: list[Place], digested: list[str]
) -> None:
    assert Looks(tmp_path).faults(places) == {}
    assert sorted(digested) == [*NAMES]
    assert Looks(tmp_path).faults(places) == {}
    assert len(digested) == 2
    os.utime(tmp_path / str(places[0]))
    assert Looks(tmp_path).faults(places) == {}
    assert digested[2:] == ["a.bin"]
    assert Looks(tmp_path).faults(places, thorough=True) == {}
    assert len(digested) == 5


def test_what_rots_in_silence_is_found_after_a_week_or_by_a_thorough_look(
    tmp_path: Path, places: list[Place], digested: list[str]
) -> None:
    Looks(tmp_path).faults(places)
    file = tmp_path / str(places[1])
    file.write_bytes(file.read_bytes().replace(b"b", b"c", 1))
    record = json.loads((tmp_path / RECORD).read_text())
    found = file.stat()
    row = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    record[str(places[1])] = [*row, time.time() - 60]  # as if nothing told of the change
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert Looks(tmp_path).faults(places) == {}
    assert Looks(tmp_path).faults(places, thorough=True) == {places[1]: "damaged"}
    for when in (time.time() - FOR_LONG - 60, time.time() + 3600):  # long ago, or a wrong clock
        record[str(places[1])] = [*row, when]
        (tmp_path / RECORD).write_text(json.dumps(record))
        assert Looks(tmp_path).faults(places) == {places[1]: "damaged"}
    assert str(places[1]) not in json.loads((tmp_path / RECORD).read_text())


def test_a_change_within_a_tick_of_the_clock_is_seen(tmp_path: Path, places: list[Place]) -> None:
    assert Looks(tmp_path).faults(places) == {}
    file = tmp_path / str(places[0])
    before = file.stat()
    file.write_bytes(b"x" + file.read_bytes()[1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Looks(tmp_path).faults(places) == {places[0]: "damaged"}


def test_what_is_no_file_of_the_artifact_is_a_fault(tmp_path: Path, places: list[Place]) -> None:
    first, second = (tmp_path / str(place) for place in places)
    (tmp_path / "same.bin").write_bytes(first.read_bytes())
    first.unlink()
    first.symlink_to(tmp_path / "same.bin")
    second.unlink()
    second.mkdir()
    assert Looks(tmp_path).faults(places) == dict.fromkeys(places, "no file of its own")
    stage, key, _ = places[0]
    assert Looks(tmp_path).faults([Place(stage, key, "c.bin")]) == {}
    (tmp_path / stage / key / "c.bin").write_bytes(b"")
    assert set(Looks(tmp_path).faults([Place(stage, key, "c.bin")]).values()) == {
        "not listed in its manifest"
    }
    shutil.rmtree(tmp_path / stage)
    assert Looks(tmp_path).faults(places) == {Place(stage, key, "manifest.json"): "missing"}
    for out in (Place("..", key, "a.bin"), Place(stage, "../../etc", "passwd")):
        (fault,) = Looks(tmp_path).faults([out]).values()
        assert fault == "no place of an artifact"


def test_readers_at_once_leave_a_record_that_reads(tmp_path: Path, places: list[Place]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Looks(tmp_path).faults(places, thorough=True), range(40)))
    assert found == [{}] * 40
    assert set(json.loads((tmp_path / RECORD).read_text())) == set(map(str, places))
    assert not list(tmp_path.glob(f"{RECORD}.*"))


def test_a_record_that_cant_be_kept_in_the_data_root_is_kept_with_the_user(
    tmp_path: Path, places: list[Place], digested: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / RECORD).mkdir()  # a folder is in the way, also of root
    for _ in range(2):
        assert Looks(tmp_path).faults(places) == {}
    assert len(digested) == 2
    assert len(list((tmp_path / "state" / "deconstruct").glob("looks-*.json"))) == 1
