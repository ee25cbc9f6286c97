"""Data roots that share a remote: whole or not at all there, checked, first come first kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.store_artifacts import plant
from support.two_files import write
from typer.testing import CliRunner

from deconstruct import doctor
from deconstruct.artifacts import DataRoot, Draft, Recipe, remote
from deconstruct.cli import app
from deconstruct.common.errors import StorageError
from deconstruct.store import publish

RECIPE = Recipe("corpus", 1, {"limit": 3}, {"source": "ab12"})


def never(draft: Draft) -> None:
    raise AssertionError("computed, where the remote has it")


@pytest.fixture(scope="session")
def bucket(new_bucket: Callable[[str], str]) -> str:
    """Query part of URLs on the local S3 server, which has a bucket ``shared``."""
    return new_bucket("shared")


@pytest.fixture(params=["s3", "memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty remote."""
    where = f"{request.node.name}-{time.time_ns()}".replace("[", "-").replace("]", "")
    if request.param == "s3":
        yield f"s3://test:test@shared/{where}{request.getfixturevalue('bucket')}"
    else:
        yield f"memory://{where}" if request.param == "memory" else f"file://{tmp_path}/remote"
    remote.mirror_at.cache_clear()


@pytest.fixture
def another(url: str, tmp_path: Path) -> Callable[[], DataRoot]:
    """Makes data roots as on other machines: nothing is known of what others have seen there."""
    numbers = iter(range(100))

    def make() -> DataRoot:
        remote.mirror_at.cache_clear()
        return DataRoot(tmp_path / f"home-{next(numbers)}", url)

    return make


Another = Callable[[], DataRoot]


def remote_file(url: str, name: str) -> tuple[Any, str]:
    filesystem, root = remote.objects_at(url)
    return filesystem, f"{root}/{RECIPE.stage}/{RECIPE.key}/{name}"


def replace(url: str, name: str, content: bytes) -> None:
    filesystem, path = remote_file(url, name)
    with filesystem.open(path, "wb") as file:
        file.write(content)


def test_what_one_data_root_made_another_computes_no_more(another: Another) -> None:
    made = another().make(RECIPE, write)
    for ask in (
        lambda root: root.find(RECIPE),
        lambda root: root.make(RECIPE, never),
        lambda root: root.open(RECIPE.stage, RECIPE.key),
    ):
        root = another()
        taken = ask(root)
        assert taken.manifest == made.manifest
        assert taken.path == root.folder(RECIPE.stage, RECIPE.key)
        for name in ("a.txt", "sub/b.txt", "manifest.json"):
            assert (taken.path / name).read_bytes() == (made.path / name).read_bytes()
        assert sorted(p.name for p in taken.path.parent.iterdir()) == [RECIPE.key]
        assert root.find(Recipe("corpus", 2, {}, {})) is None


def test_what_was_made_before_there_was_a_remote_is_sent_when_it_is_asked_for(
    another: Another,
) -> None:
    first = another()
    first.mirror = None
    first.make(RECIPE, write)
    assert another().find(RECIPE) is None
    assert DataRoot(first.path, another().mirror.url).find(RECIPE) is not None
    assert another().find(RECIPE) is not None


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "manifest", "outside"])
def test_a_damaged_remote_file_is_reported_and_made_anew(
    fault: str, url: str, another: Another, caplog: pytest.LogCaptureFixture
) -> None:
    made = another().make(RECIPE, write)
    text = (made.path / "manifest.json").read_text()
    if fault == "flipped":
        replace(url, "a.txt", b"Contents of a.txt")
    elif fault == "cut":
        replace(url, "a.txt", b"contents")
    elif fault == "missing":
        filesystem, path = remote_file(url, "a.txt")
        filesystem.rm_file(path)
    elif fault == "manifest":
        replace(url, "manifest.json", text[:-20].encode())
    else:
        replace(url, "manifest.json", text.replace("a.txt", "../../a.txt").encode())
    root = another()
    assert root.find(RECIPE) is None
    name = "manifest.json" if fault in ("manifest", "outside") else "a.txt"
    what = "missing" if fault == "missing" else "damaged"
    shown = str(root.mirror)
    assert f"{shown}/corpus/{RECIPE.key}/{name} is {what}; it is made anew" in caplog.text
    assert "test:test" not in caplog.text
    with pytest.raises(StorageError, match=r"is missing, and .* has none"):
        root.open(RECIPE.stage, RECIPE.key)
    remade = root.make(RECIPE, write)
    assert remade.digest() == made.digest()
    caplog.clear()
    assert another().make(RECIPE, never).digest() == made.digest()
    assert not caplog.records or "made anew" not in caplog.text


def test_damage_here_is_mended_from_the_remote_file_by_file(another: Another) -> None:
    root = another()
    made = root.make(RECIPE, write)
    kept = made.file("sub/b.txt").stat().st_ino
    made.file("a.txt").write_text("Contents of a.txt")
    (made.path / "stray").write_text("")
    remote.mirror_at.cache_clear()
    mended = DataRoot(root.path, root.mirror.url).make(RECIPE, never)
    assert mended.digest() == made.digest()
    assert mended.file("a.txt").read_text() == "contents of a.txt"
    assert mended.file("sub/b.txt").stat().st_ino == kept
    assert not (mended.path / "stray").exists()


def test_a_transfer_that_broke_off_leaves_nothing_and_is_taken_up_again(
    another: Another, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = another()
    real = remote.objects_at(root.mirror.url)[0]
    sent = type(real).put_file

    def breaking(self: Any, here: str, there: str, **options: Any) -> None:
        if here.endswith("manifest.json"):
            raise OSError("the line is dead")
        sent(self, here, there, **options)

    monkeypatch.setattr(remote.Mirror, "_place", (real, remote.objects_at(root.mirror.url)[1]))
    monkeypatch.setattr(type(real), "put_file", breaking)
    with pytest.raises(StorageError, match=r"can't be written: the line is dead; check the URL"):
        root.make(RECIPE, write)
    monkeypatch.undo()
    assert another().find(RECIPE) is None
    remote.mirror_at.cache_clear()
    assert DataRoot(root.path, root.mirror.url).make(RECIPE, never)  # it was published here
    assert another().find(RECIPE) is not None


def test_two_at_once_compute_both_and_the_first_manifest_stands(another: Another) -> None:
    first, second = another(), another()

    def slow(draft: Draft) -> None:
        first.make(RECIPE, write)
        with draft.writing("a.txt") as path:
            path.write_text("rounded otherwise")
        with draft.writing("c.txt") as path:
            path.write_text("a file more")

    late = second.make(RECIPE, slow)
    assert late.digest() == first.open(RECIPE.stage, RECIPE.key).digest()
    assert sorted(p.name for p in late.path.iterdir()) == ["a.txt", "manifest.json", "sub"]


@pytest.mark.parametrize(
    "url",
    [
        "s3://test:test@none-such/data?endpoint_override=127.0.0.1:9&scheme=http",
        "nonsense://data",
        "file:///proc/none/data",
    ],
)
def test_a_remote_out_of_reach_is_one_sentence_soon(url: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StorageError) as raised:
        DataRoot(tmp_path, url).mirror.check()
    said = str(raised.value)
    assert said.startswith(f"remote {remote.shown(url)!r} can't be written: ")
    assert "unset DECONSTRUCT_REMOTE" in said
    assert "test:test" not in said
    assert "\n" not in said
    assert time.monotonic() - started < 20


def test_gc_and_doctor_know_of_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    asked = CliRunner()
    none = asked.invoke(app, ["gc", "--remote", "--home", str(home)])
    assert none.exit_code == 1
    assert "there is no remote; name its URL in DECONSTRUCT_REMOTE" in none.output

    run = plant(home)
    publish(home, run.record, run.artifacts)
    monkeypatch.setenv(remote.VARIABLE, url)
    root = DataRoot(home)
    for artifact in root.artifacts():
        root.open(artifact.stage, artifact.key)
    root.make(RECIPE, write)
    replace(url, "manifest.json", b"")
    filesystem, path = remote_file(url, "manifest.json")
    filesystem.rm_file(path)  # half sent
    held = {(h.stage, h.key): h.complete for h in root.mirror.held()}
    assert held.pop((RECIPE.stage, RECIPE.key)) is False
    assert set(held) == {(a.stage, a.key) for a in run.artifacts.values()}
    assert set(held.values()) == {True}

    arguments = ["gc", "--remote", "--unused-hours", "0", "--home", str(home)]
    listed = asked.invoke(app, arguments)
    assert RECIPE.key in listed.output, listed.output
    assert not any(key in listed.output for _, key in held)
    assert asked.invoke(app, [*arguments[:2], "--home", str(home)]).output.startswith("0.0 MB")
    assert asked.invoke(app, [*arguments, "--delete"]).exit_code == 0
    assert {(h.stage, h.key) for h in root.mirror.held()} == set(held)
    assert root.folder(RECIPE.stage, RECIPE.key).exists()  # here it stays

    found = {finding.subject: finding for finding in doctor.examine(home)}["remote"]
    assert found.found.startswith(f"{remote.shown(url)}, {len(held)} artifacts")
    monkeypatch.setenv(remote.VARIABLE, "file:///proc/none")
    lost = {finding.subject: finding for finding in doctor.examine(home)}["remote"]
    assert not lost.sound
