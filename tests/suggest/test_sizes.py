"""Sizes fit the texts and the model, whatever there is of either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import tiny_tokenizer

from deconstruct.common.errors import ConfigError
from deconstruct.config import RunConfig
from deconstruct.model.resolve import ResolvedModel
from deconstruct.sae.schedule import step_count
from deconstruct.suggest.sizes import ACTIVATION_BYTES, Sizes, fitting, lengths_of, two_digits


def sizes(documents: int, length: int, width: int = 768, positions: int | None = 1024) -> Sizes:
    return fitting(width, positions, [length] * 10, documents)


@given(
    documents=st.integers(1, 10**9),
    lengths=st.lists(st.integers(0, 2000), min_size=1, max_size=20),
    width=st.integers(2, 20_000),
    positions=st.none() | st.integers(2, 10**6),
)
def test_a_run_of_any_texts_and_model_is_valid(
    documents: int, lengths: list[int], width: int, positions: int | None
) -> None:
    found = fitting(width, positions, lengths, documents)
    corpus = {"max_tokens": found.max_tokens, "limit": found.limit, "test_share": found.test_share}
    sae = {n: getattr(found, n) for n in ("d_sae", "k", "tokens", "batch_size")}
    config = RunConfig.model_validate({"corpus": corpus, "sae": sae})
    assert found.d_sae % width == 0
    assert positions is None or found.max_tokens <= positions
    assert found.batch_size <= max(1, found.train_tokens / 4)
    assert found.steps == step_count(config.sae)
    assert found.recorded * width * 4 <= 1.1 * ACTIVATION_BYTES or found.limit == 1
    assert found.tokens >= 0.9 * found.train_tokens


@pytest.mark.parametrize(
    ("length", "positions", "expected"),
    [
        (10, 1024, 16),
        (60, 1024, 64),
        (128, 1024, 128),
        (129, 1024, 256),
        (900, 1024, 512),
        (900, 256, 256),
        (900, 100, 100),
        (10, 4, 4),
        (900, None, 512),
    ],
)
def test_most_texts_are_kept_whole_as_far_as_the_model_goes(
    length: int, positions: int | None, expected: int
) -> None:
    assert sizes(1000, length, positions=positions).max_tokens == expected


def test_one_long_text_of_twenty_does_not_set_the_length() -> None:
    found = fitting(64, None, [30] * 19 + [5000], 1000)
    assert (found.max_tokens, found.whole) == (32, 0.95)


def test_a_dictionary_grows_with_the_tokens_that_teach_it() -> None:
    assert [sizes(n, 101).d_sae // 768 for n in (10, 300, 700, 1_300, 10_000)] == [1, 1, 4, 8, 16]


def test_small_corpora_get_small_batches_and_more_passes() -> None:
    small, large = sizes(20, 50), sizes(9_000, 101)
    assert (small.train_tokens, small.tokens, small.batch_size) == (784, 7800, 32)
    assert (large.tokens, large.batch_size, round(large.passes)) == (2_900_000, 4096, 4)


def test_more_text_than_the_disk_should_hold_is_drawn_from() -> None:
    found = sizes(1_000_000, 101)
    assert (found.limit, found.documents, found.test_share) == (13_000, 13_000, 0.1)
    assert sizes(10_000, 101).limit is None


def test_tokens_are_counted_by_the_models_tokenizer(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    settings["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0} | {
        "direction": "Right"
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    texts = ["the market rose", "the team won the match"]
    own = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert own[0] > 4
    model = ResolvedModel("./mine", tmp_path, "", "")
    assert lengths_of(model, texts) == own
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"'./mine': its tokenizer.json does not load"):
        lengths_of(model, texts)


def test_without_a_tokenizer_they_are_estimated() -> None:
    assert lengths_of(ResolvedModel("embedded:gemma-3-270m", Path(), "", ""), ["x" * 45]) == [11]


@pytest.mark.parametrize(
    ("number", "rounded"),
    [(0.2, 1), (7, 7), (99, 99), (123, 120), (9_960, 10_000), (45_678, 46_000)],
)
def test_two_digits(number: float, rounded: int) -> None:
    assert two_digits(number) == rounded
