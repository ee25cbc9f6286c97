"""Growth goes by what the source says now of the texts that it knows."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.growing import TRAINED, Home

from deconstruct.artifacts import Artifact
from deconstruct.drift.stage import reference_of
from deconstruct.sae import stage as sae

Rows = list[tuple[str, str]]


def source(folder: Path, rows: Rows) -> Path:
    path = folder / "texts.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows])
    return path


def labels(corpus: Artifact) -> dict[str, list[str | None]]:
    table = corpus.table("documents.parquet", ["text", "label"])
    found: dict[str, list[str | None]] = {}
    for text, label in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.setdefault(text, []).append(label)
    return found


def texts(count: int, label: str, start: int = 0) -> Rows:
    return [(f"the market rose by {start + i} in london", label) for i in range(count)]


def test_labels_that_were_filled_in(
    growing: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = growing.read(source(tmp_path, texts(100, "")))
    assert base.facts["labels"] == []
    full = [*texts(50, "a"), *texts(50, "b", start=50), *texts(3, "c", start=100)]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        more = growing.read(source(tmp_path, full), base)
    assert labels(more) == {text: [label] for text, label in full}
    assert more.facts["labels"] == ["a", "b", "c"]
    assert more.facts["segments"] == [100, 3]
    assert "100 texts that were there before have another label now" in caplog.text
    assert "have no label" not in caplog.text
    before = base.table("documents.parquet").drop(["label"])
    assert more.table("documents.parquet").slice(0, 100).drop(["label"]).equals(before)
    assert more.table("tokens.parquet").slice(0, base.facts["tokens"]) == base.table(
        "tokens.parquet"
    )


def test_labels_that_were_corrected_taken_away_and_of_texts_that_left(
    growing: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = texts(30, "a")
    base = growing.read(source(tmp_path, first))
    now = [(text, "b" if i < 5 else "" if i < 8 else "a") for i, (text, _) in enumerate(first)]
    gone = now.pop()
    with caplog.at_level(logging.INFO):
        more = growing.read(source(tmp_path, now), base)
    assert labels(more) == {text: [label or None] for text, label in [*now, gone]}
    assert more.facts["labels"] == ["a", "b"]
    assert "8 texts that were there before have another label now" in caplog.text
    assert "3 of 30 documents have no label" in caplog.text
    again = growing.read(source(tmp_path, first), more)
    assert labels(again) == {text: ["a"] for text, _ in first}


def test_equal_texts_of_different_labels_keep_theirs(growing: Home, tmp_path: Path) -> None:
    rows = [("one text", "a"), *texts(20, "x"), ("one text", "b")]
    base = growing.read(source(tmp_path, rows))
    more = growing.read(source(tmp_path, [*rows, *texts(1, "x", start=20)]), base)
    assert labels(more)["one text"] == ["a", "b"]
    assert more.facts["segments"] == [22, 1]


@pytest.mark.parametrize(("before", "now"), [("1", "1.0"), ("1.0", "1"), ("-3", "-3.00")])
def test_a_column_that_turned_to_floats_makes_no_new_classes(
    growing: Home, tmp_path: Path, before: str, now: str
) -> None:
    base = growing.read(source(tmp_path, [*texts(20, before), *texts(20, "7.5", start=20)]))
    more = growing.read(
        source(tmp_path, [*texts(10, now), *texts(20, "7.5", start=20), *texts(9, now, start=40)]),
        base,
    )
    assert more.facts["labels"] == sorted([before, "7.5"])
    assert set(more.table("documents.parquet")["label"].to_pylist()[40:]) == {before}


def test_a_parquet_file_that_took_the_place_of_a_csv_file(growing: Home, tmp_path: Path) -> None:
    base = growing.read(source(tmp_path, texts(20, "1")))
    path = tmp_path / "a.parquet"
    columns = {"text": [text for text, _ in texts(22, "")], "label": pa.array([1.0] * 21 + [None])}
    pq.write_table(pa.table(columns), path)
    more = growing.read(path, base)
    assert more.facts["labels"] == ["1"]
    assert more.facts["segments"] == [20, 2]


def test_a_corrected_label_alone_needs_no_drift(growing: Home, tmp_path: Path) -> None:
    """All documents are those that the SAE was trained on: there is nothing to compare."""
    rows = texts(60, "a")
    base = growing.read(source(tmp_path, rows))
    dictionary = sae.train(growing.root, TRAINED, activations=growing.record(base), device="cpu")
    corrected = growing.read(source(tmp_path, [*rows[:-1], (rows[-1][0], "b")]), base)
    assert corrected.key != base.key
    assert reference_of(growing.root, corrected, dictionary) is None
    more = growing.read(source(tmp_path, [*rows, *texts(2, "a", start=60)]), corrected)
    found = reference_of(growing.root, more, dictionary)
    assert found is not None
    assert found.key == base.key
