"""Texts alike: what is found, by which way, and on which side of the split it comes."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.columns import rows, tokenised, write

from deconstruct.artifacts import Artifact
from deconstruct.common.intervals import Bootstrap
from deconstruct.corpus.alike import exact, groups, minhash, shingles
from deconstruct.corpus.alike.exact import Shared
from deconstruct.corpus.alike.groups import group_ids
from deconstruct.corpus.alike.minhash import components, links
from deconstruct.corpus.alike.shingles import Kept
from deconstruct.model.resolve import ResolvedModel

WORDS = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "am", "en", "ir")]
FIELDS: dict[str, Any] = {"label_column": None}


def text(number: int, words: int = 14) -> str:
    """A text that is like no other."""
    return " ".join(random.Random(f"text {number}").choices(WORDS, k=words))


def copied(of: str, number: int) -> str:
    """A near-copy: the last word is another."""
    return f"{of.rsplit(' ', 1)[0]} {WORDS[number % len(WORDS)]}x"


def planted(seed: int, count: int) -> list[NDArray[np.uint32]]:
    """Documents of 0 to 60 tokens; a third are others with up to half of their tokens changed."""
    draw = np.random.default_rng(seed)
    made: list[NDArray[np.uint32]] = []
    for number in range(count):
        ids = draw.integers(0, 500, draw.integers(0, 60)).astype(np.uint32)
        if number % 3 == 2:
            ids = made[int(draw.integers(0, number))].copy()
            changed = int(draw.integers(0, len(ids) // 2 + 1))
            begin = int(draw.integers(0, len(ids) - changed + 1))
            ids[begin : begin + changed] = draw.integers(0, 500, changed)
        made.append(ids)
    return made


def kept_of(documents: list[NDArray[np.uint32]]) -> Kept:
    kept = Kept()
    for start in range(0, len(documents), 7):
        kept.add(documents[start : start + 7])
    return kept


def brute_force(documents: list[NDArray[np.uint32]]) -> set[tuple[int, int]]:
    """Pairs with a Jaccard index of at least one half, by sets of tuples."""
    sets = [
        {tuple(ids[i : i + 5].tolist()) for i in range(max(0, len(ids) - 4))} for ids in documents
    ]
    return {
        (i, j)
        for i in range(len(sets))
        for j in range(i)
        if (common := len(sets[i] & sets[j])) and 2 * common >= len(sets[i]) + len(sets[j]) - common
    }


def as_set(pairs: NDArray[np.int64]) -> set[tuple[int, int]]:
    return {(a, b) for a, b in pairs.tolist()}


@pytest.mark.parametrize("seed", range(6))
def test_all_pairs_are_those_of_a_comparison_of_all(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = planted(seed, 150)
    expected = brute_force(documents)
    assert len(expected) > 15
    found = Shared(kept_of(documents), np.arange(150)).pairs()
    assert as_set(found) == expected
    assert len(found) == len(expected)
    monkeypatch.setattr(exact, "PRODUCTS_AT_ONCE", 20)
    monkeypatch.setattr(shingles, "TOKENS_AT_ONCE", 100)
    assert np.array_equal(Shared(kept_of(documents), np.arange(150)).pairs(), found)


@pytest.mark.parametrize("seed", range(6))
def test_links_among_many_tie_the_same_documents_and_no_others(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = planted(seed, 150)
    expected = brute_force(documents)
    found = links(kept_of(documents), np.arange(150))
    assert as_set(found) <= expected  # candidates are verified
    parts = components(np.array(sorted(expected)), 150)
    assert np.array_equal(components(found, 150), parts)
    monkeypatch.setattr(minhash, "SETS_AT_ONCE", 3)
    monkeypatch.setattr(shingles, "TOKENS_AT_ONCE", 100)
    assert np.array_equal(links(kept_of(documents), np.arange(150)), found)


def test_links_are_taken_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = planted(0, 60)
    called = []
    monkeypatch.setattr(groups, "links", lambda *_: called.append(1))
    groups.alike(kept_of(documents), np.arange(60))
    assert not called
    for name in ("EXACT_DOCUMENTS", "EXACT_TOKENS", "EXACT_PRODUCTS"):
        with monkeypatch.context() as patch:
            patch.setattr(groups, name, 10)
            groups.alike(kept_of(documents), np.arange(60))
    assert len(called) == 3


def test_special_tokens_count_for_nothing() -> None:
    special = np.zeros(20, bool)
    special[:2] = True
    kept = Kept(special=special)
    kept.add([[0, 1, 0, 1, 0, 7, 8, 9], [0, 1, 0, 1, 0, 10, 11, 12], [3, 4, 1, 5, 6, 7]])
    assert np.diff(kept.ends()).tolist() == [3, 3, 5]
    assert len(Shared(kept, np.arange(3)).pairs()) == 0


def leaks(made: Artifact) -> list[int]:
    """Held-out documents that are like a train one, compared all with all."""
    ids: dict[int, list[int]] = {}
    for token in rows(made, "tokens.parquet"):
        ids.setdefault(token["doc_id"], []).append(token["token_id"])
    split = [row["split"] for row in rows(made, "documents.parquet")]
    pairs = brute_force([np.array(ids[doc], np.uint32) for doc in range(len(split))])
    across = (pair for pair in pairs if split[pair[0]] != split[pair[1]])
    return sorted({doc for pair in across for doc in pair if split[doc] == "test"})


def test_a_leak_is_caught(tmp_path: Path, model: ResolvedModel) -> None:
    """A near-copy of each of 60 texts, far from it: about ten would be held out without it."""
    texts = [text(i) for i in range(200)]
    texts += [copied(texts[i], i) for i in range(60)]
    made = tokenised(write(tmp_path / "a.csv", {"text": texts}), model, **FIELDS)
    assert leaks(made) == []
    group = group_ids(made)
    assert group.tolist() == [*range(200), *range(60)]
    assert [row["group_id"] for row in rows(made, "documents.parquet")] == group.tolist()
    facts = {name: made.facts[name] for name in ("groups", "alike_documents", "twins_across")}
    assert facts == {"groups": 200, "alike_documents": 120, "twins_across": 0}
    assert 15 < made.facts["test_documents"] < 60


def test_near_copies_join_groups(tmp_path: Path, model: ResolvedModel) -> None:
    texts = [text(i) for i in range(60)]
    texts[17] = copied(texts[3], 0)  # of authors 7 and 3
    authors = [f"author {i % 10}" for i in range(60)]
    path = write(tmp_path / "a.csv", {"text": texts, "author": authors})
    made = tokenised(path, model, **FIELDS, group_column="author")
    assert leaks(made) == []
    assert group_ids(made).tolist() == [3 if i % 10 == 7 else i % 10 for i in range(60)]
    split = [row["split"] for row in rows(made, "documents.parquet")]
    assert len({split[i] for i in range(60) if i % 10 in (3, 7)}) == 1


def test_the_source_s_own_split_is_kept_and_twins_are_counted(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [text(i) for i in range(40)]
    texts[31], texts[32], texts[39] = (copied(texts[i], i) for i in (0, 1, 38))
    fold = ["train"] * 30 + ["test"] * 10
    path = write(tmp_path / "a.csv", {"text": texts, "fold": fold})
    with caplog.at_level(logging.WARNING):
        made = tokenised(path, model, **FIELDS, split_column="fold")
    assert [row["split"] for row in rows(made, "documents.parquet")] == fold
    assert leaks(made) == [31, 32]
    assert made.facts["twins_across"] == 2
    assert "2 held-out texts are like train texts" in caplog.text
    assert group_ids(made)[[31, 32, 39]].tolist() == [0, 1, 38]


def test_new_documents_follow_what_they_are_like(tmp_path: Path, model: ResolvedModel) -> None:
    texts = [text(i) for i in range(80)]
    base = tokenised(write(tmp_path / "a.csv", {"text": texts}), model, **FIELDS)
    new = [copied(texts[i], i) for i in range(80)]
    grown = write(tmp_path / "b.csv", {"text": [*new, *texts]})
    more = tokenised(grown, model, base, **FIELDS)
    split = [row["split"] for row in rows(more, "documents.parquet")]
    before = [row["split"] for row in rows(base, "documents.parquet")]
    assert split == before * 2
    assert "test" in before
    assert group_ids(more).tolist() == [*range(80)] * 2
    assert more.facts["twins_across"] == 0
    again = tokenised(write(tmp_path / "c.csv", {"text": [*new, *texts]}), model, base, **FIELDS)
    assert again.digest() == more.digest()


def test_a_text_that_is_like_some_of_both_sides(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands, stands; the new text is a train document, and the warning counts the other."""
    texts = [f"{text(i % 30, 12)} {text(100 + i, 8)}" for i in range(60)]
    base = tokenised(write(tmp_path / "a.csv", {"text": texts}), model, **FIELDS)
    split = [row["split"] for row in rows(base, "documents.parquet")]
    assert base.facts["alike_documents"] == 0
    of = next(i for i in range(30) if split[i] != split[30 + i])
    grown = write(tmp_path / "b.csv", {"text": [*texts, text(of, 12)]})
    with caplog.at_level(logging.WARNING):
        more = tokenised(grown, model, base, **FIELDS)
    assert [row["split"] for row in rows(more, "documents.parquet")] == [*split, "train"]
    assert more.facts["twins_across"] == 1
    assert "1 held-out texts are like train texts" in caplog.text
    assert group_ids(more)[[of, 30 + of, 60]].tolist() == [of] * 3


def test_texts_of_one_template_are_told_apart_by_their_tokens_alone(
    tmp_path: Path, model: ResolvedModel, caplog: pytest.LogCaptureFixture
) -> None:
    same = text(0)
    texts = [copied(same, i) for i in range(50)]
    with caplog.at_level(logging.WARNING):
        made = tokenised(write(tmp_path / "a.csv", {"text": texts}), model, **FIELDS)
    assert "most texts are alike, as of one template" in caplog.text
    assert 0 < made.facts["test_documents"] < 25
    assert group_ids(made).tolist() == list(range(50))


def test_intervals_draw_groups() -> None:
    """Each document three times over: intervals as wide as those of one copy, not narrower."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=60)
    whole = {"x": np.repeat(values, 3)}
    mean = {"mean": lambda sums: sums["x"]}
    group = np.repeat(np.arange(60) * 7, 3)
    grouped = Bootstrap(180, 400, 0, group).estimates(whole, mean)["mean"]
    once = Bootstrap(60, 400, 0).estimates({"x": 3 * values}, mean)["mean"]
    assert grouped == pytest.approx(once)
    apart = Bootstrap(180, 400, 0).estimates(whole, mean)["mean"]
    assert np.subtract(*grouped[1:]) < 1.4 * np.subtract(*apart[1:])  # low - high
    own = Bootstrap(180, 400, 0, np.arange(180)).estimates(whole, mean)["mean"]
    assert own == apart
    alone = Bootstrap(180, 400, 0, np.zeros(180, np.int64)).estimates(whole, mean)["mean"]
    assert alone.low is None
