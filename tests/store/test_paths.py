"""A data root's path changes no answer."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest
from support.store_artifacts import plant

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import StorageError
from deconstruct.common.paths import absolute
from deconstruct.store import export_run, open_store, publish
from deconstruct.store.query import data_root
from deconstruct.store.rewrite import FILE
from deconstruct.store.schema import RELATIONS

HIVE = [
    f"{column.name}={value}"
    for relation in RELATIONS
    for column in relation.columns
    for value in ((32 if "INT" in column.type else "red"),)
]
ODD = [
    "a*b", "a[b]", "a{b,c}", "a#b", "a%20b", "a b", "it's", 'a"b', "~a", "$HOME", "a;b",
    "a\tb", "a\nb", "é", "e\u0301", "-a", "a.duckdb", "file:a", "a&b=c", "...",
    "x'); DROP TABLE runs; --", "x:y", "md:x",
]  # fmt: skip


def answers(home: Path | str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all relations that come from artifacts."""
    with open_store(home) as store:
        return {
            r.name: store.execute(f"SELECT * FROM {r.name} ORDER BY ALL").fetchall()
            for r in RELATIONS
            if r.stage
        }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[object, ...]]]:
    home = tmp_path_factory.mktemp("plain")
    planted = plant(home)
    publish(home, planted.record, planted.artifacts)
    found = answers(home)
    assert all(found[r.name] for r in RELATIONS if r.stage and r.stage != "drift" and not r.paired)
    return found


def test_folders_that_look_like_partitions_hide_no_column(
    tmp_path: Path, plain: dict[str, list[tuple[object, ...]]]
) -> None:
    home = tmp_path.joinpath(*dict.fromkeys(HIVE), "data")
    planted = plant(home)
    run = publish(home, planted.record, planted.artifacts)
    assert answers(home) == plain
    export_run(home, run, home / "one.duckdb")
    (home / FILE).unlink()
    (home / "one.duckdb").rename(home / FILE)
    assert answers(home) == plain


@pytest.mark.parametrize("folder", ODD)
def test_odd_names_of_folders_change_nothing(
    tmp_path: Path, folder: str, plain: dict[str, list[tuple[object, ...]]]
) -> None:
    home = tmp_path / folder / "data"
    planted = plant(home)
    run = publish(home, planted.record, planted.artifacts)
    assert answers(home) == plain
    copy = home / f"{folder}.duckdb"
    export_run(home, run, copy)
    with duckdb.connect(copy, read_only=True) as store:
        assert store.execute("SELECT count(*) FROM tokens").fetchone() == (len(plain["tokens"]),)


def test_a_way_back_and_a_link_lead_to_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: dict[str, list[tuple[object, ...]]]
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    planted = plant(Path("../data"))
    publish(Path("../data"), planted.record, planted.artifacts)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.setenv("DECONSTRUCT_HOME", "../data/../data")
    doubled = f"/{tmp_path}/data"
    for home in ("../data", None, tmp_path / "below/../data", tmp_path / "link", doubled):
        assert answers(home) == plain
    for home in (tmp_path / "link", doubled, "../link"):
        again = plant(Path(home))
        publish(Path(home), again.record, again.artifacts)
        assert answers(home) == plain


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aim" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "aim" / "inner")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert absolute("link/data") == tmp_path / "link/data"
    assert absolute("link/../data") == Path(os.path.realpath(tmp_path)) / "aim/data"
    assert absolute("~/data") == tmp_path / "me/data"
    assert str(absolute(f"/{tmp_path}")) == str(tmp_path)
    assert data_root("x/../data") == DataRoot("x/../data").path == absolute("data")


@pytest.mark.parametrize("sign", ["?", "\\"])
def test_what_duckdb_takes_for_something_else_is_refused(
    tmp_path: Path, sign: str, plain: dict[str, list[tuple[object, ...]]]
) -> None:
    with pytest.raises(StorageError, match=r"home .* has a '.*' in it, w.*; name another"):
        DataRoot(tmp_path / f"a{sign}b")
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageError, match=r"file .* has a '.*' in it, w.*; name another"):
        export_run(tmp_path, "latest", tmp_path / f"a{sign}b.duckdb")
