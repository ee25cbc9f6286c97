"""Removing runs, and artifacts that nothing needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.store_artifacts import Planted, plant

from deconstruct.artifacts import SCRATCH, DataRoot, Draft, Recipe
from deconstruct.common.errors import StorageError
from deconstruct.config import STAGES
from deconstruct.store import (
    QueryError,
    collect,
    garbage,
    open_store,
    publish,
    remove_runs,
    run_id_of,
)
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import RELATIONS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def runs(home: Path) -> tuple[Planted, Planted]:
    """Two published runs of one corpus."""
    planted = plant(home, documents=6), plant(home, "other", seed=1, documents=6)
    for run in planted:
        publish(home, run.record, run.artifacts)
    return planted


def names(things: object) -> set[tuple[str, str, str]]:
    return {(thing.kind, thing.stage, thing.key) for thing in things}  # type: ignore[attr-defined]


def own(run: Planted) -> set[tuple[str, str, str]]:
    return {("artifact", s, a.key) for s, a in run.artifacts.items() if s != "corpus"}


def test_a_run_goes_from_every_table_and_the_rest_stays(
    home: Path, runs: tuple[Planted, Planted]
) -> None:
    demo, other = runs
    assert remove_runs(home, ["demo"]) == [run_id_of(demo.artifacts)]
    with open_store(home) as store:
        for relation in RELATIONS:
            if relation.name != "meta" and not relation.paired:
                found = store.execute(f"SELECT DISTINCT run_id FROM {relation.name}").fetchall()
                assert found == [(run_id_of(other.artifacts),)], relation.name
    assert all(a.path.is_dir() for a in demo.artifacts.values())
    assert publish(home, demo.record, demo.artifacts) == run_id_of(demo.artifacts)
    with open_store(home) as store:
        assert store.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]


def test_all_runs_to_be_removed_must_be_there(home: Path, runs: tuple[Planted, Planted]) -> None:
    with pytest.raises(QueryError, match="no run is called 'nobody'"):
        remove_runs(home, ["demo", "nobody"])
    with pytest.raises(QueryError, match="no run is called"):
        remove_runs(home, ["'; DELETE FROM runs; --"])
    with open_store(home) as store:
        assert store.execute("SELECT count(*) FROM runs").fetchall() == [(2,)]
    with pytest.raises(StorageError, match="no store yet"):
        remove_runs(home / "nowhere", ["demo"])


def test_nothing_that_runs_need_is_garbage(home: Path, runs: tuple[Planted, Planted]) -> None:
    assert garbage(home, unused_hours=0, partial=True) == []


def test_what_a_removed_run_alone_needed_can_go(home: Path, runs: tuple[Planted, Planted]) -> None:
    demo, other = runs
    remove_runs(home, ["demo"])
    assert garbage(home) == []  # used just now
    found = garbage(home, unused_hours=0)
    assert names(found) == own(demo)
    size = sum(f.stat().st_size for t in found for f in t.path.rglob("*") if f.is_file())
    assert sum(thing.bytes for thing in found) == size
    assert collect(home, found) == found
    assert not any(a.path.exists() for s, a in demo.artifacts.items() if s != "corpus")
    assert all(a.path.is_dir() for a in other.artifacts.values())
    with open_store(home) as store:
        assert len(store.execute("FROM top_contexts('other', 7)").fetchall()) > 0
    assert garbage(home, unused_hours=0) == []


def test_a_store_without_runs_still_answers(home: Path, runs: tuple[Planted, Planted]) -> None:
    remove_runs(home, ["demo", "other"])
    collect(home, garbage(home, unused_hours=0))
    assert [p.name for stage in STAGES for p in (home / stage).iterdir()] == []
    with open_store(home) as store:
        for relation in RELATIONS:
            if relation.name != "meta":
                assert store.execute(f"FROM {relation.name}").fetchall() == []
    planted = plant(home, documents=6)
    publish(home, planted.record, planted.artifacts)
    with open_store(home) as store:
        assert store.execute("SELECT count(*) FROM tokens").fetchall() == [(len(planted.tokens),)]


def test_what_an_artifact_was_made_from_is_needed_too(
    home: Path, runs: tuple[Planted, Planted]
) -> None:
    root = DataRoot(home)
    model = root.make(Recipe("model", 1, {}, {}), lambda draft: draft.write_json("a.json", 1))

    def record(draft: Draft) -> None:
        draft.write_json("a.json", 1)
        draft.facts.update(runs[0].artifacts["activations"].facts)

    read = root.make(Recipe("activations", 1, {}, {"model": model.key}), record)
    both = {("artifact", "model", model.key), ("artifact", "activations", read.key)}
    assert names(garbage(home, unused_hours=0)) == both
    run = runs[0]
    publish(home, run.record, {**run.artifacts, "activations": read})
    assert names(garbage(home, unused_hours=0)) == set()


def interrupted(home: Path, upstream: str) -> Recipe:
    """A stage that was stopped half-way."""
    recipe = Recipe("sae", 1, {"half": "done"}, {"activations": upstream})

    def write(draft: Draft) -> None:
        (draft.scratch / "checkpoint").write_bytes(b"x" * 5000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DataRoot(home).make(recipe, write)
    return recipe


def test_partial_folders_go_on_request_and_until_then_keep_what_they_go_on_from(
    home: Path, runs: tuple[Planted, Planted]
) -> None:
    demo, _ = runs
    activations = demo.artifacts["activations"].key
    recipe = interrupted(home, activations)
    remove_runs(home, ["demo"])
    needed = ("artifact", "activations", activations)
    assert names(garbage(home, unused_hours=0)) == own(demo) - {needed}
    found = garbage(home, unused_hours=0, partial=True)
    assert names(found) == own(demo) | {("partial", "sae", recipe.key)}
    collect(home, found)
    assert not (home / "sae" / f".{recipe.key}.partial").exists()


def test_a_stage_that_runs_loses_neither_its_folder_nor_its_inputs(
    home: Path, runs: tuple[Planted, Planted]
) -> None:
    demo, _ = runs
    activations = demo.artifacts["activations"].key
    code = (
        "import sys; from deconstruct.artifacts import DataRoot, Recipe\n"
        "def write(draft):\n"
        "    print('running', flush=True); input()\n"
        "    draft.write_json('done.json', 1)\n"
        "recipe = Recipe('sae', 1, {'long': 'training'}, {'activations': sys.argv[2]})\n"
        "DataRoot(sys.argv[1]).make(recipe, write)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home), activations],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as stage:
        assert stage.stdout is not None
        assert stage.stdout.readline() == "running\n"
        remove_runs(home, ["demo"])
        found = garbage(home, unused_hours=0, partial=True)
        assert names(found) == own(demo) - {("artifact", "activations", activations)}
        collect(home, found)
        stage.communicate("\n")
    assert stage.returncode == 0
    assert len([p for p in (home / "sae").iterdir() if (p / "done.json").exists()]) == 1


def test_what_was_used_since_it_was_found_stays(
    home: Path, runs: tuple[Planted, Planted], caplog: pytest.LogCaptureFixture
) -> None:
    demo, _ = runs
    remove_runs(home, ["demo"])
    for artifact in demo.artifacts.values():
        os.utime(artifact.path / "manifest.json", (1e9, 1e9))
    found = garbage(home)
    assert names(found) == own(demo)
    DataRoot(home).open("sae", demo.artifacts["sae"].key)
    gone = collect(home, found)
    assert names(gone) == own(demo) - {("artifact", "sae", demo.artifacts["sae"].key)}
    assert demo.artifacts["sae"].path.is_dir()


def test_what_an_interrupted_removal_left_is_found_again(
    home: Path, runs: tuple[Planted, Planted]
) -> None:
    half = home / "sae" / f".{'ab' * 16}.removed"
    half.mkdir()
    (half / "weights").write_bytes(b"x")
    found = garbage(home)
    assert names(found) == {("removed", "sae", "ab" * 16)}
    collect(home, found)
    assert not half.exists()


def test_other_folders_are_left_alone(home: Path, runs: tuple[Planted, Planted]) -> None:
    (home / "notes" / "mine").mkdir(parents=True)
    (home / "sae" / "backup").mkdir()
    (home / "sae" / ("cd" * 16)).symlink_to(home / "notes")
    assert garbage(home, unused_hours=0, partial=True) == []


def test_what_lies_behind_a_link_is_left_alone(
    home: Path, runs: tuple[Planted, Planted], tmp_path: Path
) -> None:
    """It may be another data root's, and the link of whoever has made this one."""
    (tmp_path / "other" / ("cd" * 16)).mkdir(parents=True)
    (home / "photos").symlink_to(tmp_path / "other")
    (home / "sae").rename(tmp_path / "sae")
    (home / "sae").symlink_to(tmp_path / "sae")
    remove_runs(home, ["demo"])
    found = garbage(home, unused_hours=0, partial=True)
    assert found
    assert not [thing for thing in found if thing.stage in ("photos", "sae")]


def test_without_a_store_nothing_is_garbage(home: Path, runs: tuple[Planted, Planted]) -> None:
    (home / FILE).unlink()
    with pytest.raises(StorageError, match="no store yet"):
        garbage(home, unused_hours=0)


def test_the_recipe_of_a_partial_folder_is_not_in_the_artifact(home: Path) -> None:
    recipe = interrupted(home, "0" * 32)
    assert (home / "sae" / f".{recipe.key}.partial" / SCRATCH / "recipe.json").exists()
    made = DataRoot(home).make(recipe, lambda draft: draft.write_json("a.json", 1))
    assert sorted(made.manifest.files) == ["a.json"]
    assert not (made.path / SCRATCH).exists()
