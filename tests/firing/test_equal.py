"""A document of the corpus fires as the run's own latents say, whatever kind of run it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from firing.houses import CHATS, House
from hypothesis import given, settings
from hypothesis import strategies as st

import deconstruct
from deconstruct.firing import Firer, Firings

KINDS: dict[str, dict[str, Any]] = {
    "topk": {},
    "relu": {"trained": {"architecture": "relu"}},
    "batchtopk": {"trained": {"architecture": "batchtopk"}},
    "split": {"read": {"long_documents": "split", "max_tokens": 9}},
    "no-bos": {"read": {"prepend_bos": "never"}, "recorded": {"skip_positions": 0}},
    "short": {"recorded": {"storage": "bfloat16", "skip_positions": 3}},
    "transcoder": {
        "recorded": {"sites": ("1.resid_post", "2.mlp_out")},
        "trained": {"output_site": "2.mlp_out"},
    },
    "pretrained": {"trained": {"pretrained": "topk"}},
    "chats": {"read": {"roles": "assistant", "max_tokens": 100}},
}
CLOSE = 1e-4
"""Of the strongest activation of a document: what sums in another order may change in float32."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("fired"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reader(kind: str, house: House) -> Firer:
    house.publish(kind, **KINDS[kind])
    return Firer(kind, house.home, device="cpu")


def stored(home: Path, run_id: str, doc_id: int) -> tuple[list[str], np.ndarray]:
    """The tokens of a document, and activations float32 [tokens, 64] as the store has them."""
    with deconstruct.open_store(home) as store:
        of = {"run": run_id, "doc": doc_id}
        tokens = store.execute(
            "SELECT token_index, token FROM tokens WHERE run_id = $run AND doc_id = $doc "
            "ORDER BY token_index", of,
        ).fetchall()  # fmt: skip
        fired = store.execute(
            "SELECT l.token_index, l.latent, l.activation FROM latents_by_token AS l "
            "JOIN tokens AS t USING (run_id, token_index) "
            "WHERE l.run_id = $run AND t.doc_id = $doc", of,
        ).fetchall()  # fmt: skip
    dense = np.zeros((len(tokens), 64), np.float32)
    for token, latent, activation in fired:
        dense[token - tokens[0][0], latent] = activation
    return [token for _, token in tokens], dense


def documents(home: Path, run_id: str) -> list[str]:
    with deconstruct.open_store(home) as store:
        rows = store.execute(
            "SELECT text FROM documents WHERE run_id = ? ORDER BY doc_id", [run_id]
        ).fetchall()
    return [text for (text,) in rows]


def agree(found: Firings, text: int, home: Path, doc_id: int) -> None:
    tokens, dense = stored(home, found.run_id, doc_id)
    assert list(found.texts[text].tokens) == tokens
    ours = found.dense(range(64), text)
    assert np.abs(ours - dense).max() <= CLOSE * dense.max()


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=5, unique=True))
def test_documents_fire_as_the_run_says(
    house: House, kind: str, reader: Firer, chosen: list[int]
) -> None:
    texts: list[Any] = documents(house.home, reader.run_id)
    if kind == "chats":  # a rendered text is read whole, of a chat one role
        texts = CHATS
    found = reader.fire([texts[doc_id] for doc_id in chosen])
    for place, doc_id in enumerate(chosen):
        agree(found, place, house.home, doc_id)


def test_texts_together_fire_as_each_alone(reader: Firer) -> None:
    texts = ["the bank cut its rates", "the team won the match after a late goal and more"]
    both = reader.fire(texts)
    for number, text in enumerate(texts):
        alone = reader.fire(text)
        assert (alone.dense(range(64)) == both.dense(range(64), number)).all()


def test_the_probe_says_of_held_out_documents_what_it_said_in_the_run(
    house: House, kind: str, reader: Firer
) -> None:
    if kind == "chats":
        pytest.skip("the probe of chats reads one role's tokens")
    with deconstruct.open_store(house.home) as store:
        rows = store.execute(
            "SELECT doc_id, target, score FROM probe_scores WHERE run_id = ? "
            "AND representation = 'latents' AND k IS NULL ORDER BY doc_id LIMIT 30",
            [reader.run_id],
        ).fetchall()
    texts = documents(house.home, reader.run_id)
    told = {doc: reader.fire(texts[doc]).log_odds() for doc, _, _ in rows}
    assert len(rows) == 30
    for doc, label, score in rows:
        assert told[doc][label] == pytest.approx(score, abs=1e-3)
