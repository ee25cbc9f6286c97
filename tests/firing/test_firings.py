"""What is told of firings, what is refused before any model is loaded, and `deconstruct try`."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from firing.houses import House
from support.hostile import HOSTILE
from typer.testing import CliRunner

import deconstruct
from deconstruct.cli import app
from deconstruct.common.errors import DataError
from deconstruct.firing import Firer, Firings

ONE = "the bank cut its rates and shares rose"
OTHER = "the team won the match after a late goal"


@pytest.fixture(scope="module")
def reader(fired: House) -> Firer:
    return Firer("plain", fired.home, device="cpu")


@pytest.fixture(scope="module")
def both(reader: Firer) -> Firings:
    return reader.fire([ONE, OTHER])


def called(house: House, *words: str, code: int = 0, given: str | None = None) -> str:
    done = CliRunner().invoke(
        app, ["try", "plain", *words, "--home", str(house.home)], input=given,
        env={"COLUMNS": "80", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else " ".join(done.output.split())


def test_orders(both: Firings) -> None:
    by_activation = both.top(None)
    assert [row.activation for row in by_activation] == sorted(
        (row.activation for row in by_activation), reverse=True
    )
    assert {row.latent for row in by_activation} == set(both.latent.tolist())
    for row in by_activation:
        here = both.latent == row.latent
        assert row.activation == both.activation[here].max()
        assert row.token == both.texts[row.text].tokens[row.place]
    by_lift = both.top(None, "lift")
    assert [row.lift for row in by_lift] == sorted((row.lift for row in by_lift), reverse=True)
    assert all(row.usual is None or row.lift == row.activation / row.usual for row in by_lift)
    by_label = both.top(None, "label", text=0)
    pushes = [row.push for row in by_label if row.push is not None]
    assert len(pushes) == len(by_label) > 0
    assert pushes == sorted(pushes, reverse=True)
    assert both.top(3, text=1) == both.top(None, text=1)[:3]
    assert {row.text for row in both.top(None, text=1)} == {1}


def test_log_odds_are_intercepts_and_pushes(both: Firings) -> None:
    probe = both.known.probe
    assert probe is not None
    assert probe.intercepts is not None
    x = both.dense(range(64), 1)[both.texts[1].recorded].astype(np.float64).mean(0)
    wanted = probe.weights @ x + probe.intercepts
    assert list(both.log_odds(1)) == list(probe.labels)
    assert np.allclose(list(both.log_odds(1).values()), wanted, atol=1e-6)


def test_what_fires_on_one_alone(both: Firings) -> None:
    rows = both.only_in(0, 1)
    first, second = (set(both.latent[both.text == n].tolist()) for n in (0, 1))
    assert {row.latent for row in rows} == first - second
    assert both.only_in(0, 0) == []
    assert len(both.only_in(1, 0, 1)) == 1


def test_arrow_has_a_row_for_each_pair(both: Firings) -> None:
    table = both.to_arrow()
    assert table.num_rows == len(both) > 0
    for row in table.to_pylist():
        read = both.texts[row["text"]]
        assert row["token"] == read.tokens[row["place"]]
        assert row["token_id"] == read.ids[row["place"]]
        assert row["position"] == read.position[row["place"]] >= 1
    assert repr(both).startswith(f"<Firings of run {both.run_id}: 2 texts")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "holds no text"),
        ("", "texts[0] is empty"),
        (["a", " \n"], "texts[1] is empty"),
        (3, "texts = 3 is no text"),
        (["a", 3], "texts[1] = 3 is no text"),
        (["a", b"b"], "is no text"),
        (["a"] * 257, "holds 257 texts, and at most 256"),
        ("a " * 100_001, "has 200,002 characters, and at most 200,000"),
        ([[{"role": "user", "content": "hi"}]], "is a chat, and the run is of plain texts"),
        ([[{"role": "user"}]], "is no text"),
    ],
)
def test_what_can_not_be_read_is_said_before_the_model_is_loaded(
    fired: House, texts: Any, said: str
) -> None:
    fresh = Firer("plain", fired.home)
    with pytest.raises(DataError) as error:
        fresh.fire(texts)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not fresh.loaded


def test_a_long_text_is_cut_as_the_corpus_was_and_says_so(reader: Firer) -> None:
    found = reader.fire("the bank " * 40)
    assert len(found.texts[0].ids) == 24
    assert found.texts[0].left_out > 0
    assert reader.fire(ONE).texts[0].left_out == 0


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_read(reader: Firer, text: str) -> None:
    if text.strip():
        assert len(reader.fire("x " + text).texts[0].ids) > 1


def test_threads_share_a_reader(reader: Firer) -> None:
    texts = [ONE, OTHER, "the film took the prize", "new software lets phones read"] * 3
    alone = [reader.fire(text).dense(range(64)) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: reader.fire(text).dense(range(64)), texts))
    assert all((ours == theirs).all() for ours, theirs in zip(alone, together, strict=True))


def test_the_wrapper(fired: House, both: Firings) -> None:
    found = deconstruct.fire("plain", [ONE, OTHER], fired.home)
    assert (found.to_arrow()) == both.to_arrow()


def test_try_prints_tables_and_an_object(fired: House, both: Firings) -> None:
    page = called(fired, ONE, "--not", OTHER, "--n", "3")
    assert f"tokens, read by run {both.run_id}" in page
    for title in ("Latents by activation", "What the probe says", "not on the other text"):
        assert title in page
    assert page == called(fired, "-", "--not", OTHER, "--n", "3", given=ONE)
    found = json.loads(called(fired, ONE, "--by", "lift", "--n", "2", "--format", "json"))
    assert found["run_id"] == both.run_id
    assert [row["latent"] for row in found["top"]] == [
        row.latent for row in both.top(2, "lift", text=0)
    ]
    [text] = found["texts"]
    assert text["tokens"][0]["recorded"] is False
    assert sum(len(token["latents"]) for token in text["tokens"]) == (both.text == 0).sum()
    assert "adds" in called(fired, ONE, "--by", "label")


def test_try_says_in_a_sentence_what_it_can_not(fired: House) -> None:
    assert "texts[0] is empty" in called(fired, " ", code=1)
    moved = fired.move_model()
    try:
        gone = called(fired, ONE, code=1)
    finally:
        shutil.move(moved, moved.with_name("model"))
    assert gone.startswith("error: ")
    assert "model" in gone
    assert "Traceback" not in gone


def test_hostile_tokens_do_not_reach_the_terminal(fired: House) -> None:
    page = called(fired, "a \x1b[31m\u202e b")
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_notebook_shows_them_as_text(reader: Firer) -> None:
    text = "<script>alert(1)</script> a\u202eb </style> the bank cut its rates"
    page = reader.fire([text, OTHER])._repr_html_()
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "\u202e" not in page
    assert "2 texts" in page
    assert "Furthest above their usual" in page
    assert 'tabindex="0"' in page
