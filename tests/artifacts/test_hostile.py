"""Data roots and remotes that are damaged or somebody's trap: nothing beyond a folder is touched.

Each row of the tables is one manifest, or one thing that lies where a file should. The artifact is
not believed and made anew, with equal bytes; a file outside keeps its content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.two_files import write

from deconstruct.artifacts import Artifact, DataRoot, Manifest, Recipe, remote
from deconstruct.artifacts.believed import NotBelieved, manifest_in, stays_inside
from deconstruct.common.errors import StorageError, of_files

RECIPE = Recipe("corpus", 1, {"limit": 3, "share": 1e-05}, {"source": "ab12"})
OTHER = Recipe("corpus", 1, {"limit": 4, "share": 1e-05}, {"source": "ab12"})
PRECIOUS = "what no data root may touch"

Fields = dict[str, Any]


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file beside the data root; after the test it is as it was."""
    file = tmp_path / "precious.txt"
    file.write_text(PRECIOUS)
    return file


@pytest.fixture
def made(tmp_path: Path, precious: Path) -> Artifact:
    return DataRoot(tmp_path / "home").make(RECIPE, write)


def sealed(fields: Fields) -> str:
    """The manifest as somebody writes it who knows how its digest is made."""
    from deconstruct.artifacts.manifest import _digest_of

    fields.pop("digest", None)
    try:
        return json.dumps({**fields, "digest": _digest_of(fields)})
    except UnicodeEncodeError:  # half a character: such a manifest has no digest
        return json.dumps(fields)


def listed(name: Any) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        fields["files"][name] = {**fields["files"]["a.txt"], "bytes": 3}

    return change


def of_file(**values: Any) -> Callable[[Fields], None]:
    return lambda fields: fields["files"]["a.txt"].update(values)


def with_field(name: str, value: Any) -> Callable[[Fields], None]:
    return lambda fields: fields.update({name: value})


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = [value]
    return value


NAMES = [
    "../precious.txt", "../../../precious.txt", "sub/../../x", "..", ".", "", "/etc/hostname",
    "//x", "a//b", "a/", "./a", "a/./b", "a\\b", "..\\x", "a\0b", "a\nb", "\x1b[2Jx", "\u202etxt",
    "manifest.json", "manifest.json/x", ".scratch/x", "a.txt/inside", "x" * 256, "\ud800",
    ".manifest.json.unfinished",
]  # fmt: skip

HOSTILE: dict[str, Callable[[Fields], None]] = {
    **{f"name {name[:20]!r}": listed(name) for name in NAMES},
    "negative size": of_file(bytes=-1),
    "huge size": of_file(bytes=2**63),
    "size as text": of_file(bytes="17"),
    "size as fraction": of_file(bytes=17.0),
    "size true": of_file(bytes=True),
    "negative rows": of_file(rows=-1),
    "short digest": of_file(sha256="ab"),
    "no digest": of_file(sha256=None),
    "no files": with_field("files", {}),
    "files as list": with_field("files", ["a.txt"]),
    "other stage": with_field("stage", "latents"),
    "stage that leads out": with_field("stage", "../corpus"),
    "other key": with_field("key", OTHER.key),
    "other recipe": with_field("config", {"limit": 4}),
    "other inputs": with_field("inputs", {"source": "ab13"}),
    "inputs as numbers": with_field("inputs", {"source": 12}),
    "facts as list": with_field("facts", []),
    "no time": with_field("started", "yesterday"),
    "time of no zone": with_field("started", "2026-01-01T00:00:00"),
    "no number": with_field("version", float("nan")),
    "infinite": with_field("config", {"limit": float("inf")}),
    "deep": with_field("facts", {"deep": deep(100)}),
    "deeper": with_field("config", {"deep": deep(400)}),
}
"""Manifests with a right digest, which lie in RECIPE's folder."""

TEXTS = {
    "empty": "",
    "null": "null",
    "list": "[]",
    "cut": '{"stage": "corpus"',
    "very deep": "[" * 1_000_000,
    "long number": '{"version": ' + "9" * 100_000 + "}",
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_here(case: str, made: Artifact, precious: Path) -> None:
    fields = json.loads((made.path / "manifest.json").read_text())
    HOSTILE[case](fields)
    (made.path / "manifest.json").write_text(sealed(fields))
    assert list(DataRoot(made.path.parent.parent).artifacts()) == []
    check_remade(made, precious)


@pytest.mark.parametrize("case", TEXTS)
def test_no_manifest_here(case: str, made: Artifact, precious: Path) -> None:
    (made.path / "manifest.json").write_bytes(TEXTS[case].encode(errors="surrogateescape"))
    check_remade(made, precious)


@pytest.mark.parametrize("case", [*HOSTILE, *TEXTS])
def test_a_hostile_manifest_in_a_remote(
    case: str, made: Artifact, precious: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"file://{tmp_path}/remote"
    shutil.copytree(made.path.parent, tmp_path / "remote" / "corpus")
    manifest = tmp_path / "remote" / "corpus" / RECIPE.key / "manifest.json"
    fields = json.loads(manifest.read_text())
    if case in HOSTILE:
        HOSTILE[case](fields)
    text = sealed(fields) if case in HOSTILE else TEXTS[case]
    manifest.write_bytes(text.encode(errors="surrogateescape"))
    remote.mirror_at.cache_clear()
    root = DataRoot(tmp_path / "there", url)
    before = sorted(tmp_path.rglob("*"))
    found = root.find(RECIPE)
    assert found is None
    assert "manifest.json is" in caplog.text
    assert "\x1b" not in caplog.text
    assert [p for p in tmp_path.rglob("*") if p not in before and p.is_file()] == [
        tmp_path / "there" / ".locks" / f"corpus-{RECIPE.key}"
    ]
    assert root.make(RECIPE, write).digest() == made.digest()
    assert precious.read_text() == PRECIOUS
    remote.mirror_at.cache_clear()
    assert DataRoot(tmp_path / "third", url).find(RECIPE) is not None  # mended there too


def check_remade(made: Artifact, precious: Path) -> None:
    """Nobody takes the artifact for one, and making it mends it."""
    home = made.path.parent.parent
    root = DataRoot(home)
    assert root.find(RECIPE) is None
    with pytest.raises(StorageError, match=r"run the pipeline again"):
        root.open("corpus", RECIPE.key)
    again = DataRoot(home).make(RECIPE, write)
    assert again.digest() == made.digest()
    assert DataRoot(home).find(RECIPE) is not None
    assert precious.read_text() == PRECIOUS


def into_a_folder(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / "x").write_text("inside")


def into_a_file(path: Path, outside: Path) -> None:
    path.write_text("a file")


def into_a_pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def into_a_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def into_a_link_to_its_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside.parent)


def into_a_link_to_itself(path: Path, outside: Path) -> None:
    path.symlink_to(path)


STRANGE = [
    into_a_folder, into_a_file, into_a_pipe, into_a_link, into_a_link_to_its_folder,
    into_a_link_to_itself,
]  # fmt: skip
PLACES = ["", "manifest.json", "a.txt", "sub", "sub/b.txt"]


@pytest.mark.parametrize("turned", STRANGE)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_where_a_file_should_be(
    turned: Callable[[Path, Path], None], place: str, made: Artifact, precious: Path
) -> None:
    path = made.path / place if place else made.path
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    turned(path, precious)
    check_remade(made, precious)


def test_a_link_to_equal_bytes_is_no_file_of_the_artifact(made: Artifact, precious: Path) -> None:
    moved = precious.parent / "elsewhere"
    shutil.move(made.path / "sub", moved)
    (made.path / "sub").symlink_to(moved)
    check_remade(made, precious)
    assert (moved / "b.txt").read_text() == "contents of sub/b.txt"


@pytest.mark.parametrize("turned", STRANGE)
@pytest.mark.parametrize("place", ["", "a.txt", "sub", ".scratch/recipe.json", ".scratch"])
def test_a_draft_that_somebody_left(
    turned: Callable[[Path, Path], None], place: str, tmp_path: Path, precious: Path
) -> None:
    draft = tmp_path / "home" / "corpus" / f".{RECIPE.key}.partial"
    path = draft / place if place else draft
    path.parent.mkdir(parents=True)
    turned(path, precious)
    fault = None
    try:
        made = DataRoot(tmp_path / "home").make(RECIPE, write)
        assert (made.path / "sub" / "b.txt").read_text() == "contents of sub/b.txt"
    except OSError as error:
        fault = error
    if fault is not None:
        assert of_files(fault) is not None  # a sentence, in commands and tasks
        assert turned in (into_a_folder, into_a_file)
    assert precious.read_text() == PRECIOUS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "precious.txt"]


def test_a_lock_that_is_a_link_truncates_nothing(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "home" / ".locks").mkdir(parents=True)
    (tmp_path / "home" / ".locks" / f"corpus-{RECIPE.key}").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        DataRoot(tmp_path / "home").make(RECIPE, write)
    assert precious.read_text() == PRECIOUS


@pytest.mark.parametrize("place", ["corpus", ".locks", f".locks/corpus-{RECIPE.key}"])
@pytest.mark.parametrize("turned", [into_a_folder, into_a_file])
def test_what_stands_in_the_way_is_a_sentence(
    turned: Callable[[Path, Path], None], place: str, tmp_path: Path, precious: Path
) -> None:
    path = tmp_path / "home" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    turned(path, precious)
    fault = None
    try:
        DataRoot(tmp_path / "home").make(RECIPE, write)
    except OSError as error:
        fault = error
    fits = path.is_dir() == ("/" not in place)
    assert (fault is None) == fits
    assert fault is None or "move" in str(of_files(fault))


def test_folders_that_have_changed_places_are_not_served_for_each_other(made: Artifact) -> None:
    root = DataRoot(made.path.parent.parent)
    other = root.make(OTHER, lambda draft: draft.write_json("a.json", 1))
    between = made.path.with_name("between")
    made.path.rename(between)
    other.path.rename(made.path)
    between.rename(other.path)
    root = DataRoot(root.path)
    assert root.find(RECIPE) is None
    assert root.find(OTHER) is None
    assert root.make(RECIPE, write).digest() == made.digest()
    assert root.make(OTHER, lambda draft: draft.write_json("a.json", 1)).digest() == other.digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"documents": 2', '"documents": 3').replace(
            '"documents":2', '"documents":3'
        ),
        lambda text: text.replace('"digest"', '"dhgest"'),
        lambda text: text.replace('"python"', '"pyphon"'),
        lambda text: text.replace('"rows": null', '"rows": 1234', 1),
        lambda text: text.replace('"facts"', '"facts": {}, "facts"'),
    ],
)
def test_a_changed_fact_is_noticed(
    change: Callable[[str], str], made: Artifact, precious: Path
) -> None:
    file = made.path / "manifest.json"
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    check_remade(made, precious)


def test_a_manifest_of_an_earlier_release_is_believed_and_gets_its_digest(made: Artifact) -> None:
    file = made.path / "manifest.json"
    fields = json.loads(file.read_text())
    digest = fields.pop("digest")
    file.write_text(json.dumps(fields))
    root = DataRoot(made.path.parent.parent)
    found = root.find(RECIPE)
    assert found is not None
    assert found.manifest.digest is None
    assert json.loads(file.read_text())["digest"] == digest
    assert root.find(RECIPE).manifest == made.manifest
    assert sorted(p.name for p in made.path.iterdir()) == ["a.txt", "manifest.json", "sub"]


def test_a_manifest_of_a_later_release_is_believed(made: Artifact) -> None:
    file = made.path / "manifest.json"
    fields = json.loads(file.read_text()) | {"signature": "to come"}
    file.write_text(sealed(fields))
    assert DataRoot(made.path.parent.parent).find(RECIPE) is not None


def test_a_digest_is_got_without_following_a_link(made: Artifact, precious: Path) -> None:
    file = made.path / "manifest.json"
    fields = json.loads(file.read_text())
    del fields["digest"]
    file.write_text(json.dumps(fields))
    (made.path / ".manifest.json.unfinished").symlink_to(precious)
    assert DataRoot(made.path.parent.parent).find(RECIPE) is not None
    assert precious.read_text() == PRECIOUS
    assert manifest_in(made.path).digest is not None


@pytest.mark.parametrize(
    ("stage", "key"),
    [("corpus", "../../x"), ("..", RECIPE.key), ("corpus", ""), ("", RECIPE.key), (".locks", "x")],
)
def test_inputs_that_name_no_artifact(stage: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="name no artifact"):
        DataRoot(tmp_path / "home").open(stage, key)


def test_plain_names_are_fine() -> None:
    for name in ("a", "a.txt", "train-00000.parquet", "sub/b.txt", "..a", "a..b", "é ü/日本.txt"):
        assert stays_inside(name)


def test_a_remote_that_sends_more_than_it_promised_is_cut_off(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "CHUNK", 1 << 16)
    url = f"file://{tmp_path}/remote"
    shutil.copytree(made.path.parent, tmp_path / "remote" / "corpus")
    with (tmp_path / "remote" / "corpus" / RECIPE.key / "a.txt").open("wb") as file:
        file.truncate(1 << 40)  # it takes no room
    remote.mirror_at.cache_clear()
    root = DataRoot(tmp_path / "there", url)
    assert root.find(RECIPE) is None
    sizes = [p.stat().st_size for p in root.path.rglob("*") if p.is_file()]
    assert max(sizes) < 1 << 20


def test_a_manifest_too_large_is_not_read(made: Artifact) -> None:
    with (made.path / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(NotBelieved, match="too large"):
        manifest_in(made.path)


def test_the_digest_covers_every_field() -> None:
    now = "2026-01-01T00:00:00Z"
    fields = {
        "stage": "corpus", "key": RECIPE.key, "version": 1, "config": {"a": 1}, "inputs": {},
        "files": {}, "facts": {"x": 1e-05, "y": "é"}, "software": {}, "started": now,
        "finished": now,
    }  # fmt: skip
    one = Manifest.model_validate(fields).sealed()
    one.check_digest(json.loads(one.model_dump_json()))
    assert len(str(one.digest)) == 64
    for name, other in {"version": 2, "facts": {"x": 2e-05, "y": "é"}, "stage": "latents"}.items():
        assert Manifest.model_validate(fields | {name: other}).sealed().digest != one.digest
