"""The stage contract: keys, atomic publishing, verification, resuming, locks."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from deconstruct.artifacts import Artifact, DataRoot, Draft, Recipe
from deconstruct.common.errors import StorageError

RECIPE = Recipe("corpus", 1, {"limit": 3, "source": "x.csv"}, {"source": "ab12"})


def write_two(draft: Draft) -> None:
    for name in ("a.txt", "b.txt"):
        if not draft.has(name):
            with draft.writing(name) as path:
                path.write_text(f"contents of {name}")
            draft.rows[name] = 1
    draft.facts["documents"] = 2


def test_key_depends_on_every_part_and_on_nothing_else() -> None:
    same = Recipe("corpus", 1, {"source": "x.csv", "limit": 3}, {"source": "ab12"})
    assert same.key == RECIPE.key
    others = [
        Recipe("latents", 1, RECIPE.config, RECIPE.inputs),
        Recipe("corpus", 2, RECIPE.config, RECIPE.inputs),
        Recipe("corpus", 1, {**RECIPE.config, "limit": 4}, RECIPE.inputs),
        Recipe("corpus", 1, RECIPE.config, {"source": "ab13"}),
    ]
    assert len({RECIPE.key, *(r.key for r in others)}) == 5


def test_make_publishes_once_and_then_finds(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    calls = []
    assert root.find(RECIPE) is None

    def write(draft: Draft) -> None:
        calls.append(draft.path)
        assert not root.folder(RECIPE.stage, RECIPE.key).exists()
        (draft.scratch / "note").write_text("dropped on publishing")
        write_two(draft)

    artifact = root.make(RECIPE, write)
    again = root.make(RECIPE, write)
    assert again.manifest == artifact.manifest
    assert (artifact.made, again.made) == (True, False)
    assert len(calls) == 1
    assert sorted(p.name for p in artifact.path.iterdir()) == ["a.txt", "b.txt", "manifest.json"]
    assert artifact.facts == {"documents": 2}
    assert artifact.manifest.files["a.txt"].rows == 1
    assert artifact.manifest.software["torch"]
    assert [a.key for a in root.artifacts()] == [RECIPE.key]
    with pytest.raises(StorageError, match=r"no file 'c\.txt'.*lists a\.txt, b\.txt"):
        artifact.file("c.txt")


@pytest.mark.parametrize("damage", ["delete", "flip", "cut"])
def test_damage_is_named_and_only_the_damaged_file_is_rewritten(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = DataRoot(tmp_path).make(RECIPE, write_two)
    kept = before.file("b.txt").stat().st_mtime_ns
    broken = before.file("a.txt")
    data = broken.read_bytes()
    if damage == "delete":
        broken.unlink()
    else:
        broken.write_bytes(bytes([data[0] ^ 1]) + data[1:] if damage == "flip" else data[:-1])
    root = DataRoot(tmp_path)
    assert root.find(RECIPE) is None
    assert str(broken) in caplog.text
    assert "stage corpus runs again" in caplog.text
    with pytest.raises(StorageError, match=r"a\.txt is (missing|damaged); run the pipeline again"):
        root.open(before.stage, before.key)
    after = root.make(RECIPE, write_two)
    assert after.digest() == before.digest()
    assert after.file("b.txt").stat().st_mtime_ns == kept
    assert caplog.text.count("runs again") == 1


def test_a_manifest_that_does_not_read_makes_the_stage_run_again(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    before = root.make(RECIPE, write_two)
    (before.path / "manifest.json").write_text("{")
    after = root.make(RECIPE, write_two)
    assert after.digest() == before.digest()
    assert json.loads((after.path / "manifest.json").read_text())["key"] == RECIPE.key


def test_a_failed_stage_publishes_nothing_and_goes_on_from_complete_files(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)

    def fail_in_second(draft: Draft) -> None:
        with draft.writing("a.txt") as path:
            path.write_text("contents of a.txt")
        with draft.writing("b.txt") as path:
            path.write_text("half")
            raise ValueError("bad input")

    with pytest.raises(ValueError, match="bad input"):
        root.make(RECIPE, fail_in_second)
    assert root.find(RECIPE) is None

    def resume(draft: Draft) -> None:
        assert draft.has("a.txt")
        assert not draft.has("b.txt")
        write_two(draft)

    assert (
        root.make(RECIPE, resume).digest()
        == DataRoot(tmp_path / "other").make(RECIPE, write_two).digest()
    )


def test_disk_full_is_one_sentence(tmp_path: Path) -> None:
    def write(draft: Draft) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root = DataRoot(tmp_path)
    with pytest.raises(StorageError, match=r"disk under .* is full while stage corpus writes"):
        root.make(RECIPE, write)
    assert root.find(RECIPE) is None


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't be written .*--home"):
        DataRoot(tmp_path / "file")


def _slow_make(root: Path, log: Path, hang: bool) -> None:
    def write(draft: Draft) -> None:
        with log.open("a") as handle:
            handle.write("computed\n")
        time.sleep(60 if hang else 0.3)
        write_two(draft)

    DataRoot(root).make(RECIPE, write)


def _start(root: Path, log: Path, hang: bool = False) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=_slow_make, args=(root, log, hang))
    process.start()
    return process


def test_two_processes_compute_a_key_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [_start(tmp_path / "home", log) for _ in range(3)]
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert log.read_text() == "computed\n"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = _start(tmp_path / "home", log, hang=True)
    while not log.exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    artifact = DataRoot(tmp_path / "home").make(RECIPE, write_two)
    assert isinstance(artifact, Artifact)
    assert not list((tmp_path / "home").glob("*/.*.partial"))
