"""The map's page and its parts, without a browser."""

from __future__ import annotations

import numpy as np
import pytest
from explorer.conftest import Explored
from starlette.testclient import TestClient
from support.drawn import APOSTROPHE, D_SAE, DEAD
from support.massive import ISLAND

from deconstruct.explorer.chosen import packed


@pytest.fixture
def base(explored: Explored) -> str:
    return f"/run/{explored.ids[0]}/map"


def island(explored: Explored) -> np.ndarray:
    holds = np.bincount(explored.demo.doc_of, [t == APOSTROPHE for t in explored.demo.tokens])
    return np.flatnonzero(holds)


@pytest.mark.parametrize("of", ["documents", "pooled"])
def test_points_are_all_documents_on_a_grid(
    client: TestClient, base: str, explored: Explored, of: str
) -> None:
    told = client.get(f"{base}/points?of={of}").json()
    n = len(explored.demo.labels)
    assert told["ids"] == list(range(n))
    assert {len(told["x"]), len(told["y"])} == {n}
    assert min(told["x"]) == 0
    assert max(told["x"]) == 10_000
    assert all(0 <= y <= 10_000 for y in told["y"])
    ways = told["ways"]
    assert set(ways) == {"label", "cluster", "split", "probe", "massive tokens"}
    labels = [ways["label"]["names"][group] for group in ways["label"]["of"]]
    assert labels == explored.demo.labels
    wrong = {d for d, true, said in explored.demo.predictions if true != said}
    at = ways["probe"]["names"].index("wrong")
    assert {d for d, group in enumerate(ways["probe"]["of"]) if group == at} == wrong


def test_points_are_all_living_latents(client: TestClient, base: str) -> None:
    told = client.get(f"{base}/points?of=latents").json()
    assert told["ids"] == [latent for latent in range(D_SAE) if latent != DEAD]
    assert "density" in told["ways"] or told["ways"]


def test_strengths_are_the_pooled_means(client: TestClient, base: str, explored: Explored) -> None:
    told = client.get(f"{base}/strengths?latent={ISLAND[0]}").json()
    by = dict(zip(told["ids"], told["mean"], strict=True))
    demo = explored.demo
    recorded = np.bincount(demo.doc_of, ~demo.special)
    sums = np.bincount(demo.doc_of, demo.activations[:, ISLAND[0]])
    assert by == pytest.approx(
        {d: v for d, v in enumerate(sums / recorded) if v > 0}, rel=1e-3, abs=1e-4
    )
    assert client.get(f"{base}/strengths?latent={D_SAE}").status_code == 404


def test_the_page_marks_a_selection_without_scripts(
    client: TestClient, base: str, explored: Explored
) -> None:
    chosen = island(explored)
    for address in (
        f"{base}?now=yes&selected={packed(chosen)}",
        f"{base}/marks?selected={packed(chosen)}",
    ):
        text = client.get(address).text
        assert f"What marks these {len(chosen)} documents" in text
        assert "An artefact of one token" in text
        for latent in ISLAND:
            assert f"/latent/{latent}" in text
        assert "no significance is claimed" in text
    assert "An artefact" not in client.get(f"{base}/marks?cluster=0").text
    label = explored.demo.names[2]
    assert "What marks these 20 documents" in client.get(base, params={"label": label}).text


def test_a_point_is_told_in_words(client: TestClient, base: str, explored: Explored) -> None:
    text = client.get(f"{base}/point?id=5").text
    assert f"/run/{explored.ids[0]}/doc/5" in text
    assert explored.demo.labels[5].split()[0] in text
    assert "/latent/3" in client.get(f"{base}/point?of=latents&id=3").text
    chosen = packed(np.array([1, 3, 5]))
    assert "These 3 latents" in client.get(f"{base}/marks?of=latents&selected={chosen}").text


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("?of=words", "documents, pooled, latents"),
        ("?selected=%C3%A4", "a set of documents"),
        ("/marks", "nothing is selected"),
        ("/marks?cluster=99", "no documents of cluster 99"),
        ("/marks?label=none+such", "no documents of label"),
        ("/point?id=9999", "has no document 9999"),
        ("?latent=9999", "out of range"),
    ],
)
def test_what_is_not_there_is_said(client: TestClient, base: str, address: str, said: str) -> None:
    answer = client.get(base + address)
    assert answer.status_code in (400, 404)
    assert said in answer.text


def test_documents_that_hold_a_massive_token_are_a_click_away(
    client: TestClient, base: str, explored: Explored
) -> None:
    there = client.get(f"{base}/points?of=pooled").json()["ways"]["massive tokens"]
    held = there["of"].count(there["names"].index("one or more"))
    assert f"{held} documents hold a massive token" in client.get(f"{base}?of=pooled").text
    assert "of=pooled&amp;massive=yes" in client.get(base).text
    page = client.get(f"{base}?of=pooled&massive=yes").text
    assert f"What marks these {held} documents" in page
    assert client.get(f"/run/{explored.ids[0]}").status_code == 200
