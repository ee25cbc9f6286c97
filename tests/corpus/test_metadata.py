"""Columns that are kept: their values, as JSON has them."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.columns import rows, texts, tokenised, write

from deconstruct.artifacts import Artifact
from deconstruct.corpus.columns.metadata import plain
from deconstruct.model.resolve import ResolvedModel


def metadata(artifact: Artifact) -> list[dict[str, Any]]:
    found = rows(artifact, "document_metadata.parquet")
    assert [row["doc_id"] for row in found] == list(range(len(found)))
    return [json.loads(row["metadata"]) for row in found]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (float("nan"), None),
        (float("inf"), None),
        ("a\ud800", "a?"),
        (b"\xffa", "\\xffa"),
        (Decimal("1.50"), "1.50"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, 30), "2024-02-29T12:30:00"),
        (datetime.timedelta(seconds=90), "0:01:30"),
        ([1, {"a": None}], [1, {"a": None}]),
    ],
)
def test_cells_as_json_has_them(cell: Any, expected: Any) -> None:
    assert plain(cell) == expected
    json.dumps(plain(cell), allow_nan=False)


def test_types_are_kept(tmp_path: Path, model: ResolvedModel) -> None:
    columns = {
        "text": texts(4),
        "year": [2001, 2002, None, 2004],
        "score": pa.array([0.1, None, float("nan"), 2.0], pa.float32()),
        "ok": [True, False, None, True],
        "tags": [["a"], [], None, ["b", "c"]],
        "when": [datetime.date(2024, 1, i) for i in range(1, 5)],
    }
    path = write(tmp_path / "a.parquet", columns)
    kept = tuple(columns)[1:]
    made = tokenised(path, model, label_column=None, keep_columns=kept)
    found = metadata(made)
    assert found[0] == {"year": 2001, "score": 0.1, "ok": True, "tags": ["a"], "when": "2024-01-01"}
    assert found[2] == {"year": None, "score": None, "ok": None, "tags": None, "when": "2024-01-03"}
    assert made.facts["metadata"] == list(kept)
    assert made.manifest.files["document_metadata.parquet"].rows == 4
    lines = write(tmp_path / "b.csv", {"text": texts(4), "year": columns["year"]})
    told = metadata(tokenised(lines, model, label_column=None, keep_columns=("year",)))
    assert told == [{"year": "2001"}, {"year": "2002"}, {"year": None}, {"year": "2004"}]


def test_documents_that_are_left_out_have_none(tmp_path: Path, model: ResolvedModel) -> None:
    columns = {"text": ["", *texts(3), None], "n": list(range(5))}
    path = write(tmp_path / "a.jsonl", columns)
    made = tokenised(path, model, label_column=None, keep_columns=("n",))
    assert metadata(made) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_column_may_be_kept_and_be_a_label_too(tmp_path: Path, model: ResolvedModel) -> None:
    columns = {"text": texts(4), "label": list("abab"), "author": list("wxyz")}
    path = write(tmp_path / "a.jsonl", columns)
    made = tokenised(path, model, keep_columns=("label",), group_column="author")
    assert metadata(made)[1] == {"label": "b"}
    assert rows(made, "documents.parquet")[1]["label"] == "b"
    assert "document_labels.parquet" not in made.manifest.files


def test_a_corpus_that_grows_has_what_the_source_says_now(
    tmp_path: Path, model: ResolvedModel
) -> None:
    fields: dict[str, Any] = {"label_column": None, "keep_columns": ("n",)}
    first = {"text": texts(6), "n": [0, 1, 2, 3, 4, 5]}
    base = tokenised(write(tmp_path / "a.jsonl", first), model, **fields)
    now = {"text": texts(7, start=1), "n": [1, "two", 3, 4, 5, 6, 7]}
    more = tokenised(write(tmp_path / "b.jsonl", now), model, base, **fields)
    assert [one["n"] for one in metadata(more)] == [0, 1, "two", 3, 4, 5, 6, 7]
    again = tokenised(write(tmp_path / "c.jsonl", first), model, base, **fields)
    assert metadata(again) == metadata(base)
