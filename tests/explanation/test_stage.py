"""Explanations and scores by a language model: a server on this machine takes its place."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from support.planted_words import MARKED, PLANTED, RARE, corpus_of, latents_of
from support.stand_in import StandIn, excerpts, says_no, standing_in

from deconstruct.artifacts import Artifact, DataRoot
from deconstruct.common.errors import ConfigError, SourceUnreachable
from deconstruct.config import ExplanationConfig
from deconstruct.corpus.tables import TOKENS
from deconstruct.explanation import endpoint
from deconstruct.explanation.stage import explain, recipe
from deconstruct.explanation.tables import (
    EXPLANATION_ITEMS,
    EXPLANATION_SCORES,
    EXPLANATIONS,
    RESPONSES,
)

NOISY = 5


@pytest.fixture
def given(tmp_path: Path) -> tuple[DataRoot, dict[str, Artifact]]:
    root = DataRoot(tmp_path)
    corpus, flat = corpus_of(root)
    return root, {"corpus": corpus, "latents": latents_of(root, flat)}


def settings(server: StandIn, **fields: Any) -> ExplanationConfig:
    only = (PLANTED, NOISY)
    return ExplanationConfig(**{"endpoint": server.url, "model": "m", "only": only} | fields)


def scores(made: Artifact) -> dict[tuple[int, str], dict[str, Any]]:
    rows = made.table(EXPLANATION_SCORES.file).to_pylist()
    return {(row["latent"], row["method"]): row for row in rows}


def knows(prompt: str) -> str:
    """Answers as one who sees that the latent fires on a word."""
    word = f" w{MARKED}"
    if "one sentence" in prompt:
        return f"It fires on{word}."
    listed = re.split(r"^Excerpt \d+:$", prompt, flags=re.MULTILINE)[1:]
    if "JSON list" in prompt:
        mark = f"<<w{MARKED}>>" if "stand between << and >>" in prompt else f"w{MARKED} "
        return "So: " + str([int(mark in f"{one.strip()} ") for one in listed])
    [odd] = [i for i, one in enumerate(listed, 1) if f"<<w{MARKED}>>" not in one]
    return f"Excerpt {odd}."


def test_one_who_always_says_no_has_a_balanced_accuracy_of_one_half(
    given: tuple[DataRoot, dict[str, Artifact]],
) -> None:
    root, inputs = given
    with standing_in(says_no) as server:
        made = explain(root, settings(server), **inputs)
    found = scores(made)
    for latent in (PLANTED, NOISY):
        for method in ("detection", "fuzzing"):
            row = found[latent, method]
            assert (row["value"], row["floor"], row["n"], row["failed"]) == (0.5, 0.5, 20, 0)
            assert row["ci_low"] < 0.5 < row["ci_high"]
        assert found[latent, "intruder-endpoint"]["n"] == 5
    texts = made.table(EXPLANATIONS.file)["text"].to_pylist()
    assert texts == ["It fires on something."] * 2
    assert made.facts["tokens_in"] == 10 * len(server.asked)
    assert made.facts["prompts"] == len(server.asked)


def test_one_who_knows_is_always_right_of_the_planted_latent(
    given: tuple[DataRoot, dict[str, Artifact]],
) -> None:
    root, inputs = given
    with standing_in(knows) as server:
        found = scores(explain(root, settings(server, only=(PLANTED,)), **inputs))
    assert {method: row["value"] for (_, method), row in found.items()} == {
        "detection": 1.0, "fuzzing": 1.0, "intruder-endpoint": 1.0
    }  # fmt: skip


@pytest.mark.parametrize("garbage", ["", "perhaps", "[1, 0]", "[2, 3, 2, 2, 2]", "1 or 2", "{}"])
def test_answers_that_cannot_be_read_are_null_and_counted(
    given: tuple[DataRoot, dict[str, Artifact]], garbage: str
) -> None:
    root, inputs = given
    with standing_in(lambda p: "It fires." if "one sentence" in p else garbage) as server:
        made = explain(root, settings(server, only=(PLANTED,)), **inputs)
    for (_, method), row in scores(made).items():
        assert (row["value"], row["ci_low"], row["n"]) == (None, None, 0), method
        assert row["failed"] == (5 if method == "intruder-endpoint" else 20)
    items = made.table(EXPLANATION_ITEMS.file)
    assert items["answer"].null_count == len(items) == 65


def test_an_empty_explanation_is_null_and_nothing_is_judged_by_it(
    given: tuple[DataRoot, dict[str, Artifact]],
) -> None:
    root, inputs = given
    with standing_in(lambda _: " ") as server:
        made = explain(root, settings(server, only=(PLANTED,)), **inputs)
    assert made.table(EXPLANATIONS.file)["text"].to_pylist() == [None]
    assert {method for _, method in scores(made)} == {"intruder-endpoint"}


def test_shown_contexts_are_of_train_documents_and_judged_ones_are_held_out(
    given: tuple[DataRoot, dict[str, Artifact]],
) -> None:
    root, inputs = given
    with standing_in(says_no) as server:
        made = explain(root, settings(server, only=(PLANTED, RARE)), **inputs)
    doc = inputs["corpus"].table(TOKENS.file)["doc_id"].to_numpy()
    shown = {row["latent"]: row["shown"] for row in made.table(EXPLANATIONS.file).to_pylist()}
    assert len(shown[PLANTED]) == 20
    assert len(set(doc[shown[PLANTED]])) == 20
    assert {int(d) % 2 for own in shown.values() for d in doc[own]} == {0}
    items = made.table(EXPLANATION_ITEMS.file).to_pylist()
    assert {int(doc[item["token_index"]]) % 2 for item in items} == {1}
    own = [i for i in items if i["method"] == "detection" and i["latent"] == PLANTED]
    assert sum(item["truth"] for item in own) == len(own) / 2
    assert len({doc[item["token_index"]] for item in own}) == len(own)


def test_what_was_answered_is_not_asked_again(
    given: tuple[DataRoot, dict[str, Artifact]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by another configuration, nor after an attempt that was ended by a fault."""
    root, inputs = given
    monkeypatch.setattr(endpoint, "PAUSE_SECONDS", 0.01)
    with standing_in(says_no) as server:
        first = explain(root, settings(server, only=(PLANTED,)), **inputs)
        asked = len(server.asked)
        assert explain(root, settings(server, only=(PLANTED,)), **inputs).key == first.key
        assert len(server.asked) == asked
        more = settings(server)
        explain(root, more, **inputs)
        assert len(server.asked) == 2 * asked
        assert len(set(server.asked)) == len(server.asked)
    broken = settings(server, seed=1, only=(PLANTED,), at_once=1)
    left = 3

    def runs_out(prompt: str) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConnectionError
        return says_no(prompt)

    with standing_in(runs_out) as server, pytest.raises(SourceUnreachable, match="is kept"):
        explain(root, broken.model_copy(update={"endpoint": server.url}), **inputs)
    with standing_in(says_no) as server:
        explain(root, broken.model_copy(update={"endpoint": server.url}), **inputs)
        assert len(server.asked) == asked - 3


def test_the_key_is_sent_and_stands_nowhere(
    given: tuple[DataRoot, dict[str, Artifact]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, inputs = given
    monkeypatch.setenv(endpoint.KEY_VARIABLE, "very-secret")
    monkeypatch.setattr(endpoint, "PAUSE_SECONDS", 0.01)
    caplog.set_level(logging.DEBUG)
    with standing_in(says_no) as server:
        explain(root, settings(server, only=(PLANTED,)), **inputs)
        assert set(server.keys) == {"Bearer very-secret"}
    for status in (302, 401, 500):
        with (
            standing_in(says_no, status) as server,
            pytest.raises(SourceUnreachable, match=str(status)) as caught,
        ):
            explain(root, settings(server, seed=9, only=(PLANTED,)), **inputs)
        assert "very-secret" not in str(caught.value)
        assert len(set(server.asked)) <= 4
        assert all("elsewhere" not in prompt for prompt in server.asked)
    assert "very-secret" not in caplog.text
    for file in root.path.rglob("*"):
        assert not file.is_file() or b"very-secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/v1", "no address"),
        ("localhost:8000", "no address"),
        ("http://me:word@localhost/v1", "leave them out"),
        ("https://host/v1?key=word", "leave them out"),
        ("http://host.example/v1", "unencrypted"),
    ],
)
def test_addresses_that_are_not_asked(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(endpoint.KEY_VARIABLE, "x")
    with pytest.raises(ConfigError, match=said) as caught:
        endpoint.Endpoint(url, "m")
    assert "word" not in str(caught.value)


def test_without_an_endpoint_or_for_a_latent_that_is_not_there_it_says_so(
    given: tuple[DataRoot, dict[str, Artifact]],
) -> None:
    root, inputs = given
    with pytest.raises(ConfigError, match="--endpoint"):
        explain(root, ExplanationConfig(), **inputs)
    with (
        standing_in(says_no) as server,
        pytest.raises(ConfigError, match=r"latent 99999.*from 0 to"),
    ):
        explain(root, settings(server, only=(99999,)), **inputs)


def test_the_address_is_no_part_of_the_key(given: tuple[DataRoot, dict[str, Artifact]]) -> None:
    _, inputs = given
    keys = {
        recipe(ExplanationConfig(endpoint=url, model="m"), **inputs).key
        for url in ("http://localhost:1/v1", "http://localhost:2/v1")
    }
    assert len(keys) == 1
    assert recipe(ExplanationConfig(model="n"), **inputs).key not in keys


def test_prompts_hold_as_many_excerpts_as_they_ask_about(
    given: tuple[DataRoot, dict[str, Artifact]],
) -> None:
    root, inputs = given
    with standing_in(says_no) as server:
        made = explain(root, settings(server, only=(PLANTED,)), **inputs)
    assert sorted({excerpts(prompt) for prompt in server.asked}) == [5, 20]
    assert len(made.table(RESPONSES.file)) == len(server.asked)
