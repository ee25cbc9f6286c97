"""Labels of any type, columns that are there twice, and what encodings files come in."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tiny_models import tiny_tokenizer

from deconstruct.artifacts import DataRoot
from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import CorpusConfig
from deconstruct.config.toml import load
from deconstruct.corpus import sources
from deconstruct.corpus import stage as corpus
from deconstruct.corpus.textfiles import Row
from deconstruct.model.resolve import ResolvedModel


def read(path: Path, **fields: Any) -> list[Row]:
    config = CorpusConfig(source=str(path), **fields)
    return list(sources.read(sources.resolve(config), config)[1])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([b"sport", b"caf\xc3\xa9", b"\xff", b"", None]), ["sport", "café", "\\xff"]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
        (pa.array([b"a", b"b"], pa.large_binary()).dictionary_encode(), ["a", "b"]),
        (pa.array([4.1, 3.0, 1e-8, float("nan"), None], pa.float32()), ["4.1", "3", "1e-08"]),
        (pa.array([4.1, 3.0], pa.float32()).dictionary_encode(), ["4.1", "3"]),
        (pa.array([4.1, 0.5], pa.float64()).cast(pa.float16(), safe=False), ["4.1", "0.5"]),
        (pa.array([4.1, 3.0, float("nan")]), ["4.1", "3", None]),
        (pa.array([Decimal("1.50"), None]), ["1.50"]),
        (pa.array([datetime.date(2026, 1, 2)]), ["2026-01-02"]),
        (pa.array([True, None]), ["True"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_labels_of_any_type(tmp_path: Path, labels: Any, expected: list[str | None]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * len(labels), "label": labels}), path)
    expected += [None] * (len(labels) - len(expected))
    assert [row.label for row in read(path)] == expected


def test_half_a_surrogate_is_a_label_like_any_other(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    model = ResolvedModel("plain", tmp_path / "plain", "0" * 64, "plain")
    path = tmp_path / "a.jsonl"
    labels = ["\ud800", "\ud801", "plain"]
    rows = [{"text": f"text number {i}", "label": labels[i % 3]} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = CorpusConfig(source=str(path))
    made = corpus.tokenise(
        DataRoot(tmp_path / "data"), config, source=sources.resolve(config), model=model
    )
    assert made.facts["labels"] == ["\\ud800", "\\ud801", "plain"]


@pytest.mark.parametrize("field", ["text", "label"])
@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_column_that_is_there_twice(tmp_path: Path, suffix: str, field: str) -> None:
    path = tmp_path / f"a.{suffix}"
    names = ["text", "label", field]
    if suffix == "csv":
        path.write_text(",".join(names) + "\na,b,c\n")
    elif suffix == "jsonl":
        path.write_text("{" + ", ".join(f'"{name}": "x"' for name in names) + "}")
    else:
        pq.write_table(pa.table([["a"], ["b"], ["c"]], names=names), path)
    said = rf"an object has '{field}' twice" if suffix == "jsonl" else "has 2 columns of that name"
    with pytest.raises(DataError, match=said):
        sources.resolve(CorpusConfig(source=str(path)))


def test_columns_are_missed_before_anything_long(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("body,label\na,b\n")
    with pytest.raises(DataError, match=r"corpus\.text_column 'text': a\.csv has no such column"):
        sources.resolve(CorpusConfig(source=str(path)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_csv_file_with_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"déjà\nvu",x\n', encoding=encoding, newline="")
    assert read(path) == [Row("déjà\nvu", "x")]


def test_utf_16_that_is_not_read_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n', encoding="utf-16")
    with pytest.raises(DataError, match=r"not UTF-8 .*iconv -f UTF-16 -t UTF-8 a\.jsonl"):
        read(path)
    path = tmp_path / "cut.csv"
    path.write_bytes("text,label\na,b\n".encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"cut\.csv is not UTF-16"):
        read(path)


def test_a_configuration_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "nightly"\n', encoding="utf-8-sig")
    assert load(path).name == "nightly"
    path.write_text('name = "nightly"\n', encoding="utf-16")
    with pytest.raises(ConfigError, match=r"is not TOML"):
        load(path)
