"""Which of Prefect's records are left for it to read: none that decides what code runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer
from support.traps import OWN, pickled, record

from tasks.records import only_plain
from tasks.stage import Ref

KEY = "corpus-" + "ab" * 16
REF = {"__class__": "tasks.stage.Ref", "data": {"stage": "corpus", "key": "ab" * 16}}


def touching(path: Path) -> dict[str, Any]:
    """Prefect's JSON for a call: it makes a validator of any function that a result names."""
    return {"__class__": "subprocess.getoutput", "data": {"cmd": f"touch {path}"}}


HOSTILE = {
    "pickle": lambda path: record(pickled(path), {"type": "pickle"}),
    "no serialiser": lambda path: record(pickled(path), None),
    "picklelib": lambda path: record(pickled(path), {"type": "pickle", "picklelib": "pickle"}),
    "compressed": lambda path: record("", {"type": "compressed/pickle"}),
    "unknown": lambda path: record("", {"type": "strange"}),
    "other library": lambda path: record("[]", OWN | {"jsonlib": "pickle"}),
    "other decoder": lambda path: record("[{}]", OWN | {"object_decoder": "os.system"}),
    "function": lambda path: record(json.dumps([touching(path)])),
    "deep function": lambda path: record(json.dumps([REF | {"data": {"x": touching(path)}}])),
    "exception": lambda path: record(
        json.dumps([{"__exc_type__": "builtins.SystemExit", "message": "bye"}])
    ),
    "no text": lambda path: record([touching(path)]),
    "not a record": lambda path: "[]",
    "bytes": lambda path: "\x80",
    "empty": lambda path: "",
}


def context(folder: Path) -> Any:
    storage = LocalFileSystem(basepath=str(folder))
    return SimpleNamespace(result_store=SimpleNamespace(result_storage=storage))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_record_that_is_not_ours_is_removed_unread(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, touched = tmp_path / "storage" / KEY, tmp_path / "touched"
    place.parent.mkdir()
    place.write_text(HOSTILE[case](touched))
    assert only_plain(context(place.parent), KEY, Ref)
    assert not place.exists()
    assert not touched.exists()
    assert "not one of ours" in caplog.text


def test_prefect_would_have_run_them(tmp_path: Path) -> None:
    """What makes the rest of this file worth its while."""
    for case in ("pickle", "no serialiser", "function"):
        touched = tmp_path / case.replace(" ", "-")
        ResultRecord.deserialize(HOSTILE[case](touched).encode())
        assert touched.exists(), case


def test_our_own_are_read(tmp_path: Path) -> None:
    refs = [Ref(stage="corpus", key="ab" * 16, made=True)]
    own: ResultRecord[Any] = ResultRecord(
        metadata=ResultRecordMetadata(serializer=JSONSerializer(), storage_key=KEY), result=refs
    )
    (tmp_path / KEY).write_bytes(own.serialize())
    assert only_plain(context(tmp_path), KEY, Ref)
    assert ResultRecord.deserialize((tmp_path / KEY).read_bytes()).result == refs
    assert only_plain(context(tmp_path), "none", Ref)


def test_a_link_is_removed_and_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    (tmp_path / KEY).symlink_to(precious)
    assert only_plain(context(tmp_path), KEY, Ref)
    assert not (tmp_path / KEY).is_symlink()
    assert precious.read_text() == "as it was"


def test_a_folder_is_not_removed_and_nothing_is_kept_there(tmp_path: Path) -> None:
    (tmp_path / KEY).mkdir()
    assert not only_plain(context(tmp_path), KEY, Ref)
