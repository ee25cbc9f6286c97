"""A source that is written to between its digest and the end of its reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tiny_models import tiny_tokenizer

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import DataError
from deconstruct.config import CorpusConfig
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.model.resolve import ResolvedModel


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    folder = tmp_path_factory.mktemp("plain")
    tiny_tokenizer().save_pretrained(folder)
    return ResolvedModel("plain", folder, "0" * 64, "plain")


def texts(word: str) -> dict[str, list[str]]:
    return {"text": [f"{word} number {i:04}" for i in range(3000)], "label": ["x", "y"] * 1500}


def csv(path: Path, word: str) -> Path:
    lines = [",".join(row) for row in zip(*texts(word).values(), strict=True)]
    path.write_text("\n".join(["text,label", *lines]))
    return path


def jsonl(path: Path, word: str) -> Path:
    columns = texts(word)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def parquet(path: Path, word: str) -> Path:
    pq.write_table(pa.table(texts(word)), path, row_group_size=100, compression=None)
    return path


def folder(path: Path, word: str) -> Path:
    for label in ("x", "y"):
        (path / label).mkdir(parents=True, exist_ok=True)
        for i in range(20):
            (path / label / f"{i}.txt").write_text(f"{word} number {i}")
    return path


FORMS: dict[str, Callable[[Path, str], Path]] = {
    "a.csv": csv, "a.jsonl": jsonl, "a.parquet": parquet, "a": folder,
}  # fmt: skip
SAID = r"was written to while it was read, so nothing is kept of it; run again"


@pytest.mark.parametrize("name", FORMS)
def test_what_is_kept_under_a_key_is_what_was_digested(
    tmp_path: Path, plain: ResolvedModel, name: str
) -> None:
    root, write = DataRoot(tmp_path / "data"), FORMS[name]
    path = write(tmp_path / name, "early")
    config = CorpusConfig(source=str(path))
    early = sources.resolve(config)
    write(path, "later")  # as many bytes: all that tells is what they are
    with pytest.raises(DataError, match=f"corpus.source '{name}' {SAID}"):
        corpus.tokenise(root, config, source=early, model=plain)
    assert root.find(corpus.recipe(config, source=early, model=plain)) is None
    later = corpus.tokenise(root, config, source=sources.resolve(config), model=plain)
    first = later.table("documents.parquet", ["text"])["text"][0].as_py()
    assert first.startswith("later")


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("limit", [None, 30])
def test_rewritten_on_the_way(tmp_path: Path, name: str, limit: int | None) -> None:
    write = FORMS[name]
    path = write(tmp_path / name, "early")
    config = CorpusConfig(source=str(path), limit=limit)
    _, rows = sources.read(sources.resolve(config), config)
    next(rows)
    write(path, "later")
    with pytest.raises(DataError, match=SAID):
        list(rows)


def test_what_it_led_to_is_not_what_is_said(tmp_path: Path) -> None:
    """Half a line is no fault of the file if somebody writes to it."""
    path = jsonl(tmp_path / "a.jsonl", "early")
    config = CorpusConfig(source=str(path))
    source = sources.resolve(config)
    path.write_text(path.read_text() + '\n{"text": "hal')
    with pytest.raises(DataError, match=SAID):
        list(sources.read(source, config)[1])
    path.unlink()
    with pytest.raises(DataError, match=SAID):
        sources.read(source, config)


def test_a_file_that_joins_or_leaves_a_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", "early")
    config = CorpusConfig(source=str(path))
    source = sources.resolve(config)
    (path / "x" / "new.txt").write_text("one more")
    with pytest.raises(DataError, match=SAID):
        list(sources.read(source, config)[1])
    (path / "x" / "new.txt").unlink()
    assert len(list(sources.read(source, config)[1])) == 40
    _, rows = sources.read(source, config)
    next(rows)
    (path / "y" / "3.txt").unlink()
    with pytest.raises(DataError, match=SAID):
        list(rows)
