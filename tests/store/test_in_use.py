"""What a run that lives has asked for is in use; what a dead writer left behind is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from support.store_artifacts import Planted, plant

from deconstruct.artifacts import DataRoot, Draft, Recipe, running
from deconstruct.store import collect, export_run, garbage, publish, remove_runs, rewrite
from deconstruct.store.rewrite import FILE

HOUR = 3600
LIVING = """
import sys
from pathlib import Path
from deconstruct.artifacts import DataRoot, running
home, run, *keys = sys.argv[1:]
lock = running.hold(Path(home), run)
root = DataRoot(home)
for key in keys:
    root.open("sae", key)
print("asked", flush=True)
input()
"""


@contextmanager
def run_of(home: Path, *saes: str, hours: float) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own that began so long ago and has asked for SAEs."""
    run = str(uuid4())
    with subprocess.Popen(
        [sys.executable, "-c", LIVING, str(home), run, *saes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        aged(home / running.FOLDER / run, hours)
        yield process
        process.kill()


def aged(path: Path, hours: float) -> None:
    os.utime(path, (time.time() - hours * HOUR,) * 2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def kept(home: Path) -> Planted:
    """A run that is in the store."""
    planted = plant(home, documents=6)
    publish(home, planted.record, planted.artifacts)
    return planted


def member(home: Path, number: int, activations: str) -> str:
    """The key of an SAE that a sweep has made, and no run in the store has."""
    recipe = Recipe("sae", 1, {"member": number}, {"activations": activations})
    return DataRoot(home).make(recipe, lambda draft: draft.write_json("a.json", number)).key


def activations(home: Path) -> str:
    recipe = Recipe("activations", 1, {"of": "the sweep"}, {})
    return DataRoot(home).make(recipe, lambda draft: draft.write_json("a.json", 1)).key


def keys(things: object) -> set[str]:
    return {thing.key for thing in things}  # type: ignore[attr-defined]


def test_what_a_run_of_hours_has_asked_for_stays_until_it_ends(home: Path, kept: Planted) -> None:
    read = activations(home)
    early, late, stray = (member(home, number, read) for number in range(3))
    with run_of(home, early, late, hours=5) as process:
        for key, hours in ((early, 4.5), (late, 1.5), (stray, 6)):
            aged(home / "sae" / key / "manifest.json", hours)
        aged(home / "activations" / read / "manifest.json", 7)  # by an input alone
        for hours in (1.0, 0.0):
            assert keys(garbage(home, unused_hours=hours)) == {stray}
        assert keys(collect(home, garbage(home))) == {stray}
        process.kill()
        process.wait()
        assert keys(garbage(home)) == {early, late, read}


def test_what_a_living_run_will_go_on_from_is_not_given_up(home: Path, kept: Planted) -> None:
    recipe = Recipe("sae", 1, {"member": 1}, {"activations": activations(home)})

    def fail(draft: Draft) -> None:
        raise ValueError("tried again in five seconds")

    with run_of(home, hours=5):
        with pytest.raises(ValueError, match="five seconds"):
            DataRoot(home).make(recipe, fail)
        assert keys(garbage(home, partial=True, unused_hours=0)) == set()
    assert recipe.key in keys(garbage(home, partial=True, unused_hours=0))


def test_a_dead_run_keeps_nothing(home: Path, kept: Planted) -> None:
    one = member(home, 1, activations(home))
    with run_of(home, one, hours=5):
        pass
    aged(home / "sae" / one / "manifest.json", 2)
    assert one in keys(garbage(home))
    assert list(running.dead(home)) != []
    assert list(running.dead(home)) == []


def test_drafts_of_dead_writers_go(home: Path, kept: Planted, tmp_path: Path) -> None:
    """Of the store, of exports and of answers, with what DuckDB has beside them."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".{FILE}.draft", f".{FILE}.draft.wal", f".{FILE}.draft.newer", ".demo.db.draft",
            f".rows.csv.{dead.pid}.draft"]  # fmt: skip
    for name in left:
        (home / name).write_bytes(b"x" * 1000)
    (home / f".{FILE}.draft.spill").mkdir()
    (home / f".{FILE}.draft.spill" / "1.tmp").write_bytes(b"x" * 1000)
    left.append(f".{FILE}.draft.spill")
    stay = [f".rows.csv.{os.getpid()}.draft", "my.draft", ".draft", ".notes"]
    for name in stay:
        (home / name).write_bytes(b"mine")
    found = garbage(home)
    assert {(thing.kind, thing.key) for thing in found} == {("draft", name) for name in left}
    assert {thing.bytes for thing in found} == {1000}
    with rewrite.rewriting(tmp_path / "home" / "other.db"):
        assert garbage(home) == []
        assert collect(home, found) == []
    assert keys(collect(home, found)) == set(left)
    assert all((home / name).exists() for name in stay)
    assert garbage(home) == []


KILLED = """
import os, signal, sys
from deconstruct.store import export_run, load, publish
from deconstruct.store import export
from support.store_artifacts import plant
module, name = (export, "create_macros") if sys.argv[1] == "export" else (load, "insert_file")
home, target = sys.argv[2:]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, die)
if sys.argv[1] == "export":
    export_run(home, "demo", target)
else:
    run = plant(home, "other", seed=1, documents=6)
    publish(home, run.record, run.artifacts)
"""


@pytest.mark.parametrize("what", ["export", "publish"])
def test_a_killed_writer_leaves_a_draft_that_goes(what: str, home: Path, kept: Planted) -> None:
    """The real ones, killed."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, what, str(home), str(home / "demo.duckdb")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=False,
    )
    assert done.returncode == -9
    found = [thing for thing in garbage(home) if thing.kind == "draft"]
    assert f".{'demo' if what == 'export' else 'deconstruct'}.duckdb.draft" in keys(found)
    collect(home, found)
    assert not list(home.glob(".*.draft*"))
    assert export_run(home, "demo", home / "demo.duckdb")
    remove_runs(home, ["demo"])
