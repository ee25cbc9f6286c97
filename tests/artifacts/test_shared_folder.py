"""A remote in a folder into which others write as well: nothing outside of it is touched.

Each row is what somebody has put where an artifact's folder, or a file of it, will be. It is not
believed, and the artifact is sent anew.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.two_files import write

from deconstruct.artifacts import Artifact, DataRoot, Recipe, remote
from deconstruct.common.errors import StorageError

RECIPE = Recipe("corpus", 1, {"limit": 3}, {"source": "ab12"})
PRECIOUS = "what no remote may touch"
ENDS_WITHIN = 30


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder of the user's with files that are named like an artifact's; they stay as they are,
    and none is added."""
    folder = tmp_path / "user"
    for name in ("a.txt", "b.txt", "manifest.json", "sub/b.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(PRECIOUS)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    """An artifact that is also in the remote ``<tmp_path>/remote``."""
    return data_root(tmp_path, "first").make(RECIPE, write)


def data_root(tmp_path: Path, name: str) -> DataRoot:
    remote.mirror_at.cache_clear()
    return DataRoot(tmp_path / name, f"file://{tmp_path}/remote")


def instead(place: Path, make: Callable[[Path], object]) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    make(place)


TRAPS: dict[str, Callable[[Path, Path], object]] = {
    "a link for the folder": lambda there, user: instead(there, lambda p: p.symlink_to(user)),
    "a file for the folder": lambda there, user: instead(there, lambda p: p.write_text("")),
    "a link for the manifest": lambda there, user: instead(
        there / "manifest.json", lambda p: p.symlink_to(user / "manifest.json")
    ),
    "a link to nowhere for the manifest": lambda there, user: instead(
        there / "manifest.json", lambda p: p.symlink_to(user / "new")
    ),
    "a pipe for the manifest": lambda there, user: instead(there / "manifest.json", os.mkfifo),
    "a folder for the manifest": lambda there, user: instead(there / "manifest.json", Path.mkdir),
    "an endless manifest": lambda there, user: instead(
        there / "manifest.json", lambda p: p.symlink_to("/dev/zero")
    ),
    "a link for a file": lambda there, user: instead(
        there / "a.txt", lambda p: p.symlink_to(user / "a.txt")
    ),
    "a pipe for a file": lambda there, user: instead(there / "a.txt", os.mkfifo),
    "a folder for a file": lambda there, user: instead(there / "a.txt", Path.mkdir),
    "a link for a folder in it": lambda there, user: instead(
        there / "sub", lambda p: p.symlink_to(user / "sub")
    ),
    "a file for a folder in it": lambda there, user: instead(
        there / "sub", lambda p: p.write_text("")
    ),
    "a folder of somebody's beside": lambda there, user: (there / "way").symlink_to(user),
}


@pytest.mark.parametrize("empty", [False, True], ids=["sent", "not sent yet"])
@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_a_trap_is_not_walked_into(
    trap: Callable[[Path, Path], object], empty: bool, made: Artifact, user: Path, tmp_path: Path
) -> None:
    there = tmp_path / "remote" / "corpus" / RECIPE.key
    if empty:
        shutil.rmtree(there)
        there.mkdir()
    trap(there, user)
    taken: list[Artifact] = []

    def work() -> None:
        taken.append(data_root(tmp_path, "second").make(RECIPE, write))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(ENDS_WITHIN)
    assert [artifact.digest() for artifact in taken] == [made.digest()]
    assert data_root(tmp_path, "third").open("corpus", RECIPE.key).digest() == made.digest()
    assert list(data_root(tmp_path, "fourth").mirror.held())
    check(user)
    data_root(tmp_path, "fourth").mirror.remove("corpus", RECIPE.key)
    assert not os.path.lexists(there)
    check(user)


def test_a_link_is_not_swept_out_behind(made: Artifact, user: Path, tmp_path: Path) -> None:
    key = "ab" * 16
    (tmp_path / "remote" / "corpus" / key).symlink_to(user)
    mirror = data_root(tmp_path, "second").mirror
    assert [held.key for held in mirror.held()] == [RECIPE.key]
    mirror.remove("corpus", key)
    assert not os.path.lexists(tmp_path / "remote" / "corpus" / key)
    check(user)


def test_the_note_that_proves_a_remote_writable_follows_no_link(user: Path, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    for trap in (
        lambda note: note.symlink_to(user / "a.txt"),
        lambda n: n.hardlink_to(user / "a.txt"),
    ):
        note = tmp_path / "remote" / remote.NOTE
        instead(note, trap)
        data_root(tmp_path, "home").mirror.check()
        assert not note.is_symlink()
        check(user)


def test_a_stage_may_lie_elsewhere(made: Artifact, tmp_path: Path) -> None:
    """Whose remote is too large for one disk has linked it."""
    (tmp_path / "remote" / "corpus").rename(tmp_path / "disk")
    (tmp_path / "remote" / "corpus").symlink_to(tmp_path / "disk")
    root = data_root(tmp_path, "second")
    assert root.find(RECIPE) is not None
    root.make(Recipe("corpus", 2, {}, {}), write)
    assert len(list((tmp_path / "disk").iterdir())) == 2


def test_more_than_the_disk_holds_is_said_and_not_fetched(made: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "remote" / "corpus" / RECIPE.key / "manifest.json"
    entry = made.manifest.files["a.txt"].model_copy(update={"bytes": 2**60})
    files = {**made.manifest.files, "a.txt": entry}
    file.write_text(made.manifest.model_copy(update={"files": files}).sealed().model_dump_json())
    with pytest.raises(StorageError, match=r"MB free; free some space, or unset"):
        data_root(tmp_path, "second").make(RECIPE, write)


def check(user: Path) -> None:
    files = sorted(p.relative_to(user).as_posix() for p in user.rglob("*") if p.is_file())
    assert files == ["a.txt", "b.txt", "manifest.json", "sub/b.txt"]
    assert {(user / name).read_text() for name in files} == {PRECIOUS}
