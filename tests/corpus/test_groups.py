"""What is held out: no group on both sides, or the source's own split."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from support.columns import rows, texts, tokenised, write

from deconstruct.artifacts import Artifact
from deconstruct.common.errors import DataError
from deconstruct.corpus.splits import Splits
from deconstruct.model.resolve import ResolvedModel


def sides(artifact: Artifact, key: list[Any]) -> dict[Any, set[str]]:
    """The splits of the documents of each group."""
    found = defaultdict(set)
    for group, row in zip(key, rows(artifact, "documents.parquet"), strict=True):
        found[group].add(row["split"])
    return dict(found)


@pytest.mark.parametrize("seed", range(40))
def test_no_group_and_no_text_is_on_both_sides(seed: int) -> None:
    """Of random groups and repeated texts, in batches."""
    draw = random.Random(seed)
    count, splits = draw.randint(2, 120), Splits(draw.choice([0.1, 0.2, 0.5]), seed)
    text = [draw.randrange(draw.choice([3, 60, 10**6])) for _ in range(count)]
    group = [str(draw.randrange(draw.choice([2, 12, 500]))) for _ in range(count)]
    names = []
    for start in range(0, count, 7):
        part = slice(start, start + 7)
        keys, tokens = [f"key {t}" for t in text[part]], [[t] for t in text[part]]
        names += splits.draw(keys, tokens, group[part])
    settled = splits.settle()
    side = settled.test.tolist()
    for what in (text, group):
        of = defaultdict(set)
        for one, test in zip(what, side, strict=True):
            of[one].add(test)
        if splits.parts() > 1:
            assert all(len(found) == 1 for found in of.values())
    if splits.parts() > 1:
        assert set(side) == {True, False}
    assert settled.moved == (names != ["test" if test else "train" for test in side])


def test_groups_are_drawn_alike_wherever_they_are(tmp_path: Path, model: ResolvedModel) -> None:
    authors = [f"author {i % 40}" for i in range(200)]
    path = write(tmp_path / "a.csv", {"text": texts(200), "author": authors})
    made = tokenised(path, model, label_column=None, group_column="author")
    found = sides(made, authors)
    assert all(len(side) == 1 for side in found.values())
    assert 3 <= sum(side == {"test"} for side in found.values()) <= 14
    half = {"text": texts(100, start=100), "author": authors[100:]}
    other = write(tmp_path / "b.jsonl", half)
    again = sides(tokenised(other, model, label_column=None, group_column="author"), authors[100:])
    assert again == found


def test_documents_without_a_group_are_drawn_by_their_text(
    tmp_path: Path, model: ResolvedModel
) -> None:
    columns = {"text": texts(100), "author": [None] * 100}
    path = write(tmp_path / "a.jsonl", columns)
    plain = tokenised(path, model, label_column=None)
    grouped = tokenised(path, model, label_column=None, group_column="author")
    assert grouped.key != plain.key
    column = [row["split"] for row in rows(grouped, "documents.parquet")]
    assert 5 < column.count("test") < 40


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"author": ["a"] * 10}, r"'author' of a\.jsonl: all 10 documents are of one group"),
        ({"text": ["a b"] * 5 + texts(5), "author": list("abcde") + ["a"] * 5}, "of one group"),
        ({"author": [["a"]] * 10}, "holds lists or objects, not one group per document"),
    ],
)  # fmt: skip
def test_groups_that_leave_nothing_to_hold_out(
    tmp_path: Path, model: ResolvedModel, columns: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.jsonl", {"text": texts(10), **columns})
    with pytest.raises(DataError, match=message):
        tokenised(path, model, label_column=None, group_column="author")


def test_two_groups_are_one_on_each_side_and_uneven_ones_are_said(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    authors = ["a"] * 30 + ["b"] * 30
    path = write(tmp_path / "a.csv", {"text": texts(60), "author": authors})
    with caplog.at_level(logging.WARNING):
        made = tokenised(path, model, label_column=None, group_column="author")
    assert sorted(map(sorted, sides(made, authors).values())) == [["test"], ["train"]]
    assert "50% of the documents are held out where corpus.test_share asks for 20%" in caplog.text


def test_new_documents_follow_their_group(tmp_path: Path, model: ResolvedModel) -> None:
    authors = [f"author {i % 20}" for i in range(60)]
    fields: dict[str, Any] = {"label_column": None, "group_column": "author"}
    base = tokenised(
        write(tmp_path / "a.csv", {"text": texts(60), "author": authors}), model, **fields
    )
    new = [f"author {i % 30}" for i in range(60)]
    grown = {"text": texts(110, start=10), "author": authors[10:] + new}  # 10 texts are gone
    more = tokenised(write(tmp_path / "b.csv", grown), model, base, **fields)
    assert more.facts["segments"] == [60, 60]
    found = sides(more, authors + new)
    assert all(len(side) == 1 for side in found.values())
    before = sides(base, authors)
    assert {author: found[author] for author in before} == before
    again = tokenised(write(tmp_path / "c.csv", grown), model, base, **fields)
    assert again.digest() == more.digest()


def test_a_new_document_that_would_have_to_be_on_both_sides(
    tmp_path: Path, model: ResolvedModel
) -> None:
    authors = [f"author {i % 20}" for i in range(60)]
    fields: dict[str, Any] = {"label_column": None, "group_column": "author"}
    columns = {"text": texts(60), "author": authors}
    base = tokenised(write(tmp_path / "a.csv", columns), model, **fields)
    found = sides(base, authors)
    held = next(i for i, author in enumerate(authors) if found[author] == {"test"})
    train = next(author for author in authors if found[author] == {"train"})
    twin = {"text": [*texts(60), texts(60)[held]], "author": [*authors, train]}
    with pytest.raises(DataError, match=r"corpus\.group_column: a document that is new .* anew"):
        tokenised(write(tmp_path / "b.csv", twin), model, base, **fields)


@pytest.mark.parametrize("form", ["a.csv", "a.jsonl", "a.parquet"])
def test_the_source_s_own_split_is_kept(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    said = ["train", "Test", "validation", "TRAIN ", "dev", "training"] * 5
    columns = {"text": [*texts(29), "0 is what the market rose by"], "fold": said}
    columns["fold"][29] = "test"  # a text that a train document has
    with caplog.at_level(logging.WARNING):
        made = tokenised(
            write(tmp_path / form, columns), model, label_column=None, split_column="fold"
        )
    found = [row["split"] for row in rows(made, "documents.parquet")]
    held = {"test", "validation", "dev"}
    assert found == ["test" if one.strip().lower() in held else "train" for one in said]
    assert made.facts["test_documents"] == found.count("test")
    assert (
        "1 held-out texts are like train texts, or begin as they do, and are held out"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["train", "fold 2"] * 5, r"'fold' of a\.jsonl holds 'fold 2'; it must say .* train or"),
        (["train", None] * 5, "holds nothing for a document"),
        (["train", ["test"]] * 5, r"holds \['test'\]"),
        (["train"] * 10, "says of no document that it is a held-out one"),
        (["dev"] * 10, "says of no document that it is a train one"),
    ],
)
def test_splits_that_are_none(
    tmp_path: Path, model: ResolvedModel, said: list[Any], message: str
) -> None:
    path = write(tmp_path / "a.jsonl", {"text": texts(10), "fold": said})
    with pytest.raises(DataError, match=message):
        tokenised(path, model, label_column=None, split_column="fold")


def test_a_corpus_with_its_own_split_grows(tmp_path: Path, model: ResolvedModel) -> None:
    fields: dict[str, Any] = {"label_column": None, "split_column": "fold"}
    first = {"text": [*texts(9), texts(1)[0]], "fold": ["train"] * 5 + ["test"] * 5}
    base = tokenised(write(tmp_path / "a.csv", first), model, **fields)
    now = {"text": [*first["text"], *texts(2, start=20)], "fold": [*first["fold"], "test", "train"]}
    more = tokenised(write(tmp_path / "b.csv", now), model, base, **fields)
    assert [row["split"] for row in rows(more, "documents.parquet")] == now["fold"]
    turned = {name: column[::-1] for name, column in first.items()}
    same = tokenised(write(tmp_path / "c.csv", turned), model, base, **fields)
    assert [row["split"] for row in rows(same, "documents.parquet")] == first["fold"]
