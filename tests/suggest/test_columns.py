"""Columns of texts and labels are guessed from real files of all kinds."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deconstruct.common.errors import ConfigError, DataError
from deconstruct.config import CorpusConfig
from deconstruct.suggest import sample
from deconstruct.suggest.columns import Guess, guess
from deconstruct.suggest.sample import draw

WORDS = "bank market goal team actor film music rate oil deal coach song".split()
Columns = Mapping[str, Sequence[Any]]


def prose(words: int, rows: int = 60, seed: int = 0) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=words)) + f" {row}" for row in range(rows)]


def cycled(*values: Any, rows: int = 60) -> list[Any]:
    return [values[row % len(values)] for row in range(rows)]


def as_csv(path: Path, columns: Columns, encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def as_jsonl(path: Path, columns: Columns) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text(
        "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    )
    return path


def as_parquet(path: Path, columns: Columns) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=16)
    return path


def guessed(source: Path) -> Guess:
    return guess(draw(CorpusConfig(source=str(source))))


def names(found: Guess) -> tuple[str, str | None]:
    return found.text.name, found.label.name if found.label else None


NEWS = {
    "id": range(60),
    "url": [f"https://example.org/a/very/long/address/of/an/article/{i:09d}" for i in range(60)],
    "published": [f"2024-01-{1 + i % 28:02d} 10:00:00" for i in range(60)],
    "headline": prose(4),
    "story": prose(30),
    "desk": cycled("sport", "film", "business"),
    "lang": cycled("en", "de", "en", "en"),
    "page": cycled(1, 2, 3, 4, 5),
    "split": cycled("train", "train", "test"),
}


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet])
def test_the_longest_prose_is_the_text_and_words_that_recur_the_label(
    tmp_path: Path, write: Any
) -> None:
    ending = {as_csv: "csv", as_jsonl: "jsonl", as_parquet: "parquet"}[write]
    found = guessed(write(tmp_path / f"news.{ending}", NEWS))
    assert names(found) == ("story", "desk")
    assert [column.name for column in found.labels] == ["lang", "page"]
    assert [column.name for column in found.texts] == ["headline"]
    assert [column.name for column in found.splits] == ["split"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": prose(5), "label": cycled("a", "b")}, ("text", "label")),
        ({"Unnamed: 0": prose(5), "é;|": cycled("x y", "z w")}, ("Unnamed: 0", "é;|")),
        ({"text": prose(3), "summary": prose(12)}, ("text", None)),
        ({"text": prose(5), "score": [i / 7 for i in range(60)]}, ("text", None)),
        ({"text": prose(5), "rating": cycled(0.5, 1.0, 1.5)}, ("text", "rating")),
        ({"text": prose(5), "stars": cycled(1, 2, 3), "tag": cycled("a", "b")}, ("text", "stars")),
        (
            {"text": prose(5), "seen": cycled("True", "False"), "tag": cycled(*"abc")},
            ("text", "tag"),
        ),
        ({"text": prose(5), "none": cycled("a", "b")}, ("text", None)),
        ({"text": prose(5), "one": cycled("same")}, ("text", None)),
        ({"text": prose(5), "key": [f"k{i}" for i in range(60)]}, ("text", None)),
        ({"text": prose(5), "half": [*[""] * 40, *cycled("a", "b", rows=20)]}, ("text", None)),
        ({"text": prose(5), "day": cycled("2024-01-01", "2024-01-02")}, ("text", None)),
        ({"文": [f"市场今天上涨了不少第{i}天" for i in range(60)]}, ("文", None)),
        ({"text": ["yes", "no"] * 30}, ("text", None)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_taken_for_text_and_label(
    tmp_path: Path, columns: Columns, expected: tuple[str, str | None]
) -> None:
    assert names(guessed(as_csv(tmp_path / "a.csv", columns))) == expected


def test_labels_have_the_names_that_a_run_gives_them(tmp_path: Path) -> None:
    columns = {"text": prose(5), "label": pa.array(cycled(1.0, 2.0, 4.1), pa.float32())}
    found = guessed(as_parquet(tmp_path / "a.parquet", columns))
    assert found.label is not None
    assert dict(found.label.counts) == {"1": 20, "2": 20, "4.1": 20}


def test_a_csv_in_utf_16(tmp_path: Path) -> None:
    columns = {"words": prose(9), "kind": cycled("ä", "ö")}
    assert names(guessed(as_csv(tmp_path / "a.csv", columns, "utf-16"))) == ("words", "kind")


def test_a_folder_of_classes_and_one_without(tmp_path: Path) -> None:
    for number, text in enumerate(prose(9)):
        file = tmp_path / "classes" / WORDS[number % 3] / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        (tmp_path / f"{number}.txt").write_text(text)
    found = draw(CorpusConfig(source=str(tmp_path / "classes")))
    assert found.documents == found.rows == 60
    assert names(guess(found)) == ("text", "label")
    for file in (tmp_path / "classes").rglob("*.txt"):
        file.unlink()
    assert names(guessed(tmp_path)) == ("text", None)


def test_nested_columns_are_none(tmp_path: Path) -> None:
    columns = {"text": prose(5), "tags": cycled(["a"], ["b"]), "label": cycled("a", "b")}
    for source in (
        as_jsonl(tmp_path / "a.jsonl", columns),
        as_parquet(tmp_path / "a.parquet", columns),
    ):
        assert names(guessed(source)) == ("text", "label")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"id": range(9), "kind": cycled("a", "b", rows=9)},
            r"^no column of a.csv reads as text; it has 'id' \('0'\), 'kind' \('a'\); a column of ",
        ),
        (
            {"id;text": [f"{i};word word" for i in range(9)]},
            r"'id;text': .* by semicolons, and commas",
        ),
        (
            {prose(12)[0]: prose(12, 9), "sport": cycled("film", "sport", rows=9)},
            r"^a.csv begins with a text .* put a line such as 'text,label' above it$",
        ),
    ],
)
def test_what_holds_no_texts_is_a_sentence(tmp_path: Path, columns: Columns, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        guessed(as_csv(tmp_path / "a.csv", columns))


def test_columns_of_one_name_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,label,x\n" + "one two,a,b,c\ntwo three,b,a,d\n" * 9)
    assert names(guessed(tmp_path / "a.csv"))[1] != "label"


def test_settings_of_the_hub_are_for_the_hub(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "a.csv", {"text": prose(5)})
    with pytest.raises(ConfigError, match=r"corpus.subset 'en' holds for hub data sets only"):
        draw(CorpusConfig(source=str(path), subset="en"))


@pytest.mark.parametrize("write", [as_csv, as_jsonl])
def test_of_a_long_file_the_beginning_is_read_and_its_rows_are_estimated(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = {as_csv: "csv", as_jsonl: "jsonl"}[write]
    columns = {"text": prose(20, 9000), "label": cycled("a", "b", rows=9000)}
    path = write(tmp_path / f"long.{ending}", columns)
    whole = draw(CorpusConfig(source=str(path)))
    assert (whole.documents, whole.counted, whole.head) == (9000, True, False)
    assert 2000 < whole.rows <= 4000
    assert whole.columns[0].values[-1] in columns["text"][-10:]
    monkeypatch.setattr(sample, "HEAD_BYTES", path.stat().st_size // 5)
    part = draw(CorpusConfig(source=str(path)))
    assert (part.counted, part.head) == (False, True)
    assert part.documents == pytest.approx(9000, rel=0.05)


def test_of_a_parquet_file_rows_are_drawn_all_over(tmp_path: Path) -> None:
    columns = {"text": prose(5, 9000), "label": [str(row // 3000) for row in range(9000)]}
    path = tmp_path / "sorted.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=500)
    found = draw(CorpusConfig(source=str(path)))
    assert found.documents == 9000
    assert found.rows <= 2000
    assert set(found.columns[1].counts) == {"0", "1", "2"}


def test_a_column_of_too_many_names_is_no_label(tmp_path: Path) -> None:
    """Some hundred authors in the sample are few enough; of the whole source there are more."""
    draws = random.Random(0)
    authors = [
        f"author {row if draws.random() < 0.1 else draws.randrange(40)}" for row in range(40_000)
    ]
    path = as_csv(tmp_path / "a.csv", {"text": prose(4, 40_000), "author": authors})
    few = as_csv(tmp_path / "few.csv", {"text": prose(4, 2500), "author": authors[::16]})
    assert names(guessed(few)) == ("text", "author")
    assert guessed(path).label is None
