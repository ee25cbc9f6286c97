"""Folders of texts: what is read, and that what is not is counted and named."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus.textfiles import Row


def read(path: Path) -> list[Row]:
    config = CorpusConfig(source=str(path))
    total, rows = sources.read(sources.resolve(config), config)
    found = list(rows)
    assert len(found) == total
    return found


def write(folder: Path, *names: str | bytes) -> Path:
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {path.stem}" if path.stem.isascii() else "text")
    return folder


def test_a_link_to_a_class_folder_and_suffixes_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "b.txt", "deep/c.txt")
    folder = write(tmp_path / "texts", "business/a.TXT", "business/d.Txt")
    (folder / "sport").symlink_to(tmp_path / "elsewhere")
    (folder / "sport" / "e.txt").symlink_to(folder / "business" / "a.TXT")
    assert read(folder) == [
        Row("text of a", "business"),
        Row("text of d", "business"),
        Row("text of b", "sport"),
        Row("text of c", "sport"),
        Row("text of a", "sport"),
    ]
    first = sources.resolve(CorpusConfig(source=str(folder))).digest
    (tmp_path / "elsewhere" / "b.txt").write_text("another")
    assert sources.resolve(CorpusConfig(source=str(folder))).digest != first


def test_what_is_left_out_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path, "a/b.txt", "a/README", "a/c.md", ".net/d.txt", "a/.e.txt", "f.pdf")
    (folder / "a" / "round").symlink_to(folder)
    (folder / "a" / "nowhere.txt").symlink_to(folder / "gone.txt")
    (folder / "a" / "self").symlink_to(folder / "a" / "self")
    os.mkfifo(folder / "a" / "pipe.txt")
    with caplog.at_level(logging.WARNING):
        assert read(folder) == [Row("text of b", "a")]
    assert (
        "left out as hidden or no .txt file: 9 files or folders (.net, a/.e.txt, a/README ...)"
        in (caplog.text)
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read(write(tmp_path / "tidy", "a/b.txt"))
    assert not caplog.records


def test_a_folder_of_other_files_says_which(tmp_path: Path) -> None:
    write(tmp_path, "sci.space/59848", "sci.space/59849")
    with pytest.raises(
        DataError,
        match=r"holds no \.txt file \(of 2 others: sci\.space/59848, sci\.space/59849\); expected",
    ):
        read(tmp_path)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = write(tmp_path, b"caf\xe9/a.txt", b"caf\xe8/b.txt", b"plain/c\xff.txt")
    assert {row.label for row in read(folder)} == {"caf\\udce9", "caf\\udce8", "plain"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_class_folder_that_can_not_be_read_is_no_empty_one(tmp_path: Path) -> None:
    folder = write(tmp_path, "a/b.txt", "c/d.txt")
    (folder / "c").chmod(0)
    with pytest.raises(ConfigError, match=r"can't be read: Permission denied \(.*/c\)"):
        read(folder)
    (folder / "c").chmod(0o700)
