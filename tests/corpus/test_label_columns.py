"""Several columns of labels: what kind each is found to be, and what is kept of it."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from support.columns import labels, rows, texts, tokenised, write

from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import CorpusConfig, LabelColumn, load
from deconstruct.corpus import sources
from deconstruct.model.resolve import ResolvedModel

FORMS = ("a.csv", "a.jsonl", "a.parquet")


def kind_of(
    folder: Path, model: ResolvedModel, form: str, values: Any, said: str = "x"
) -> tuple[str, dict[int, list[str | None]]]:
    path = write(folder / form, {"text": texts(len(values)), "x": values})
    return labels(tokenised(path, model, label_columns=(said,)), "x")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("values", "kind", "first"),
    [
        (["a", "b", None, "a"], "class", "a"),
        ([1, 2, None, 1], "class", "1"),
        ([1.0, 2.0, None, 2.0], "class", {"a.csv": "1.0"}),
        ([0.5, 2.0, None, 1e-3], "number", "0.5"),
        ([3, 2.25, None, -1], "number", "3"),
        ([True, False, None, True], "class", "True"),
        (["1", "b", None, "1"], "class", "1"),
    ],
)
def test_kinds_are_found(
    tmp_path: Path, model: ResolvedModel, form: str, values: list[Any], kind: str, first: Any
) -> None:
    if isinstance(first, dict):  # a CSV file's classes are as they are written
        first = first.get(form, "1")
    found, told = kind_of(tmp_path, model, form, values)
    assert found == kind
    assert told[0] == [first]
    assert set(told) == {0, 1, 3}  # None is no label


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_list_per_document_is_multilabel(tmp_path: Path, model: ResolvedModel, form: str) -> None:
    values = [["b", "a", "b"], [], None, ["c"]]
    assert kind_of(tmp_path, model, form, values) == (
        "multilabel", {0: ["a", "b"], 1: [None], 3: ["c"]}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "values", "kind", "expected"),
    [
        ("x:number", [1, 2, None, 1], "number", {0: ["1"], 1: ["2"], 3: ["1"]}),
        ("x:class", [0.5, 2.0, None, 0.5], "class", {0: ["0.5"], 1: ["2"], 3: ["0.5"]}),
        ("x:multilabel", ["b;a", "c", None, "a"], "multilabel",
            {0: ["a", "b"], 1: ["c"], 3: ["a"]}),
        ("x:multilabel", ['["b", 2]', "c | d", None, "[]"], "multilabel",
            {0: ["2", "b"], 1: ["c", "d"], 3: [None]}),
    ],
)  # fmt: skip
def test_kinds_are_said(
    tmp_path: Path, model: ResolvedModel, said: str, values: Any, kind: str, expected: Any
) -> None:
    assert kind_of(tmp_path, model, "a.jsonl", values, said) == (kind, expected)


def test_strings_that_look_like_numbers_are_classes_where_cells_have_types(
    tmp_path: Path, model: ResolvedModel
) -> None:
    codes = ["250.01", "250.02", "401.9", "250.01"]
    assert kind_of(tmp_path, model, "a.csv", codes)[0] == "number"
    assert kind_of(tmp_path, model, "b.csv", codes, "x:class")[1][0] == ["250.01"]
    assert kind_of(tmp_path, model, "a.parquet", codes)[0] == "class"


def test_class_labels_have_their_names(tmp_path: Path, model: ResolvedModel) -> None:
    names = datasets.ClassLabel(names=["World", "Sports"])
    features = datasets.Features(
        text=datasets.Value("string"), topic=names, tags=datasets.Sequence(names)
    )
    values = {"text": texts(4), "topic": [1, 0, -1, 1], "tags": [[0, 1], [], [1], [1]]}
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(values, features=features).to_parquet(path)
    made = tokenised(path, model, label_columns=("topic", "tags"))
    assert labels(made, "topic") == ("class", {0: ["Sports"], 1: ["World"], 3: ["Sports"]})
    assert labels(made, "tags")[1] == {
        0: ["Sports", "World"],
        1: [None],
        2: ["Sports"],
        3: ["Sports"],
    }


def test_short_floats_are_told_as_they_are_written(tmp_path: Path, model: ResolvedModel) -> None:
    values = pa.array([0.1, 2.5, None, 3.0], pa.float32())
    assert kind_of(tmp_path, model, "a.parquet", values)[1] == {0: ["0.1"], 1: ["2.5"], 3: ["3"]}


def test_float_columns_with_gaps_and_with_many_values(tmp_path: Path, model: ResolvedModel) -> None:
    """Whole floats are classes, as integers with gaps are, but never more than there may be."""
    few = [float(i % 3) for i in range(1200)]
    assert kind_of(tmp_path, model, "a.parquet", few)[0] == "class"
    many = [float(i) for i in range(1200)]
    kind, told = kind_of(tmp_path, model, "b.parquet", many)
    assert (kind, len(told), told[1100]) == ("number", 1200, ["1100"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("values", "said", "message"),
    [
        (list(range(1001)), "x", r"'x' of a\.\w+ has more than 1000 different values.*'x:number'"),
        ([f"id {i}" for i in range(1001)], "x", r"more than 1000 different values, so it holds no"
            " classes; name another column, or leave it out"),
        (["1.5", "high", "2", "3"], "x:number", r"'x' of a\.\w+ holds \"high\", not a number"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_a_sentence(
    tmp_path: Path, model: ResolvedModel, form: str, values: Any, said: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        kind_of(tmp_path, model, form, values, said)


@pytest.mark.parametrize(
    ("values", "said", "message"),
    [
        ([{"a": 1}] * 4, "x", r"holds \{\"a\": 1\}, not labels"),
        ([[["a"]]] * 4, "x", r"holds \[\"a\"\], not labels"),
        ([["a"]] * 4, "x:class", r"holds \[\"a\"\], not one class per document"),
        ([["a"]] * 4, "x:number", r"holds \[\"a\"\], not one number per document"),
        ([[f"{i} a", f"{i} b"] for i in range(501)], "x", "more than 1000 different values"),
    ],
)
def test_cells_that_are_no_labels(
    tmp_path: Path, model: ResolvedModel, values: Any, said: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        kind_of(tmp_path, model, "a.jsonl", values, said)


def test_all_labels_are_in_one_table_and_the_first_classes_in_documents(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    draw = random.Random(0)
    columns = {
        "text": texts(600),
        "stars": [draw.choice([0.5, 1.0, 4.5, None]) for _ in range(600)],
        "topic": [draw.choice(["a", "b", None]) for _ in range(600)],
        "tags": [draw.sample("xyz", draw.randint(0, 3)) for _ in range(600)],
    }
    path = write(tmp_path / "a.jsonl", columns)
    with caplog.at_level(logging.INFO):
        made = tokenised(path, model, label_columns=("stars", "topic", "tags"))
    expected = []
    for document in range(600):
        stars, topic = columns["stars"][document], columns["topic"][document]
        if stars is not None:
            expected.append((document, "stars", "number", f"{stars:g}"))
        if topic is not None:
            expected.append((document, "topic", "class", topic))
        tags = sorted(columns["tags"][document]) or [None]
        expected += [(document, "tags", "multilabel", tag) for tag in tags]
    found = [tuple(row.values()) for row in rows(made, "document_labels.parquet")]
    assert found == expected
    assert made.manifest.files["document_labels.parquet"].rows == len(expected)
    assert [row["label"] for row in rows(made, "documents.parquet")] == columns["topic"]
    assert made.facts["labels"] == ["a", "b"]
    assert [(one["task"], one["kind"], one["labels"]) for one in made.facts["tasks"]] == [
        ("stars", "number", 0), ("topic", "class", 2), ("tags", "multilabel", 3)
    ]  # fmt: skip
    assert "column 'tags' is read as multilabel of 3 labels" in caplog.text
    without = columns["topic"].count(None)
    assert f"{without} of 600 documents have no label in column 'topic'" in caplog.text


def test_one_column_alone_leaves_the_corpus_as_it_was(tmp_path: Path, model: ResolvedModel) -> None:
    path = write(tmp_path / "a.csv", {"text": texts(9), "label": list("abc") * 3})
    made = tokenised(path, model)
    assert set(made.manifest.files) == {"documents.parquet", "tokens.parquet"}
    assert not {"tasks", "metadata"} & made.facts.keys()
    fields = CorpusConfig(source=str(path)).key_fields()
    assert not {"label_columns", "group_column", "split_column", "keep_columns"} & fields.keys()


def test_which_column_is_first() -> None:
    def tasks(**fields: Any) -> list[tuple[str, str | None]]:
        config = CorpusConfig.model_validate(fields)
        again = CorpusConfig.model_validate_json(config.model_dump_json())
        assert again == config
        return [tuple(task) for task in config.tasks]

    assert tasks() == []
    assert tasks(label_columns=["a:number", "b"]) == [("a", "number"), ("b", None)]
    assert CorpusConfig.model_validate({"label_columns": ["a:number", "b"]}).label_column == "a"
    assert tasks(label_columns=["a", "b"], label_column="b") == [("b", None), ("a", None)]
    assert tasks(label_columns=["a", "b"], label_column="c")[0] == ("c", "class")
    assert LabelColumn.of("a:b:class") == ("a:b", "class")
    assert load(None, ["corpus.label_columns=a,b"]).corpus.label_column == "a"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus.label_columns=a,b,a:number"], r"label_columns: column 'a' is named twice"),
        (["corpus.keep_columns=a,a"], r"keep_columns: column 'a' is named twice"),
        (["corpus.group_column=a", "corpus.split_column=b"], "would both decide what is held out"),
    ],
)
def test_settings_that_contradict_each_other(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(None, overrides)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_columns": ("topic", "start")}, r"corpus\.label_columns 'start': a\.\w+ has no such"
            r" column; did you mean 'stars'\? its columns are 'text', 'topic', 'stars'; or leave"),
        ({"label_columns": ("topic",), "label_column": "label"}, r"corpus\.label_column 'label'"),
        ({"label_column": None, "group_column": "author"}, r"corpus\.group_column 'author'"),
        ({"label_column": None, "split_column": "split"}, r"corpus\.split_column 'split'"),
        ({"label_column": None, "keep_columns": ("topic", "year")}, r"corpus\.keep_columns 'year'"),
    ],
)  # fmt: skip
def test_a_column_that_is_missing_is_said_before_any_text_is_read(
    tmp_path: Path, form: str, fields: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / form, {"text": texts(2), "topic": ["a", "b"], "stars": [1, 2]})
    with pytest.raises(DataError, match=message):
        sources.resolve(CorpusConfig.model_validate({"source": str(path), **fields}))


def test_a_corpus_that_grows_has_the_labels_of_now(tmp_path: Path, model: ResolvedModel) -> None:
    said = ("topic", "stars", "tags")
    first = {
        "text": texts(20),
        "topic": ["a", "b"] * 10,
        "stars": [i / 2 for i in range(20)],
        "tags": [["x"], []] * 10,
    }
    base = tokenised(write(tmp_path / "a.jsonl", first), model, label_columns=said)
    now = {  # the first two are gone; the third has other labels; the fourth has none any more
        "text": texts(20, start=2),
        "topic": ["c", None, *["a", "b"] * 9],
        "stars": [7.0, None, *[(i + 2) / 2 for i in range(2, 20)]],
        "tags": [["y", "x"], None, *[["x"], []] * 9],
    }
    more = tokenised(write(tmp_path / "b.jsonl", now), model, base, label_columns=said)
    assert more.facts["segments"] == [20, 2]
    document = {row["text"]: row["doc_id"] for row in rows(more, "documents.parquet")}
    expected = {text: i for i, text in enumerate(now["text"])}
    for task, kind in (("topic", "class"), ("stars", "number"), ("tags", "multilabel")):
        found, told = labels(more, task)
        assert found == kind
        assert (told[0], told[1]) == (labels(base, task)[1][0], labels(base, task)[1][1])
        for text, i in expected.items():
            value = now[task][i]
            if isinstance(value, list):
                assert told[document[text]] == (sorted(value) or [None])
            elif value is None:
                assert document[text] not in told
            else:
                assert told[document[text]] == [f"{value:g}" if kind == "number" else value]
    assert rows(more, "documents.parquet")[2]["label"] == "c"
    assert more.facts["labels"] == ["a", "b", "c"]


def test_a_grown_column_keeps_its_kind(tmp_path: Path, model: ResolvedModel) -> None:
    whole = {"text": texts(10), "x": np.arange(10) % 3 * 1.0}
    base = tokenised(write(tmp_path / "a.parquet", whole), model, label_columns=("x",))
    now = {"text": texts(12), "x": [*np.arange(10) % 3 * 1.0, 0.5, 1.0]}
    more = tokenised(write(tmp_path / "b.parquet", now), model, base, label_columns=("x",))
    assert labels(more, "x")[0] == labels(base, "x")[0] == "class"
    assert labels(more, "x")[1][10] == ["0.5"]


@pytest.mark.parametrize(("before", "now"), [("1", "1.0"), ("1.0", "1")])
def test_a_grown_column_that_turned_to_floats_makes_no_new_classes(
    tmp_path: Path, model: ResolvedModel, before: str, now: str
) -> None:
    columns = {"text": texts(6), "x": [before, "2.5"] * 3}
    base = tokenised(write(tmp_path / "a.csv", columns), model, label_columns=("x:class",))
    grown = {"text": texts(8), "x": [now, "2.5"] * 4}
    more = tokenised(write(tmp_path / "b.csv", grown), model, base, label_columns=("x:class",))
    assert more.facts["labels"] == sorted([before, "2.5"])
    assert labels(more, "x")[1][6] == [before]
