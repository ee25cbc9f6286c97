"""What marks some documents: beside scikit-learn, and what was planted."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pytest
from explorer.conftest import Explored
from sklearn.metrics import roc_auc_score
from support.drawn import APOSTROPHE, SPORT_LATENT
from support.massive import ISLAND

from deconstruct.explorer.chosen import packed, unpacked
from deconstruct.report.chart import Missing
from deconstruct.report.reading.corpus.holdings import holdings
from deconstruct.report.reading.corpus.marks import marks, wilson
from deconstruct.report.reading.corpus.ruled import ruled
from deconstruct.store import QueryError, open_store


@pytest.fixture(scope="module")
def store(explored: Explored) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(explored.home, files=False) as connection:
        yield connection


@pytest.fixture(scope="module")
def island(explored: Explored) -> list[int]:
    demo = explored.demo
    return sorted(
        {int(demo.doc_of[at]) for at, token in enumerate(demo.tokens) if token == APOSTROPHE}
    )


def pooled(explored: Explored) -> np.ndarray:
    """Mean activation [document, latent] over recorded tokens, of the arrays that were planted."""
    demo = explored.demo
    sums = np.zeros((len(demo.labels), demo.activations.shape[1]))
    np.add.at(sums, demo.doc_of, demo.activations.astype(np.float64))
    recorded = np.bincount(demo.doc_of, ~demo.special)
    return sums / recorded[:, None]


def test_figures_are_those_of_plain_arrays(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    """For labels, an odd choice, and one document."""
    means, labels = pooled(explored), np.array(explored.demo.labels)
    choices = [np.flatnonzero(labels == labels[1]), np.arange(3, 40, 7), np.array([5])]
    for chosen in choices:
        inside = np.isin(np.arange(len(labels)), chosen)
        found = marks(store, explored.ids[0], chosen.tolist())
        assert (found.n, found.total) == (len(chosen), len(labels))
        assert len(found.latents) > 5
        for one in [*found.latents, *found.silent]:
            values = means[:, one.latent]
            ours, others = values[inside], values[~inside]
            assert one.auroc == pytest.approx(roc_auc_score(inside, values), abs=1e-6)
            assert one.mean_inside == pytest.approx(ours.mean(), rel=1e-4)
            assert one.mean_outside == pytest.approx(others.mean(), rel=1e-4)
            spread = np.sqrt((ours.var() + others.var()) / 2)
            assert one.cohen_d == pytest.approx((ours.mean() - others.mean()) / spread, rel=1e-3)
            assert one.documents_inside == pytest.approx((ours > 0).mean())
        assert all(one.cohen_d > 0 for one in found.latents)
        assert all(one.cohen_d <= 0 for one in found.silent)


def test_the_island_is_an_artefact_of_one_token(
    store: duckdb.DuckDBPyConnection, explored: Explored, island: list[int]
) -> None:
    assert len(island) == 15
    found = marks(store, explored.ids[0], island)
    assert [one.latent for one in found.latents[:2]] == list(ISLAND)
    for one in found.latents[:2]:
        assert one.auroc == 1
        assert one.artefact
        assert one.ruled is not None
        assert one.ruled.token == APOSTROPHE
        assert one.ruled.documents == 1
        assert one.ruled.activation > 1000
        assert 0.4 < (one.ruled.elsewhere or 0) < 2
    assert not any(one.artefact for one in found.latents[2:])
    assert found.tokens[0].name == APOSTROPHE
    assert found.tokens[0].inside == 1
    assert found.tokens[0].outside == 0
    assert {one.name for one in found.labels} == set(explored.demo.names)
    assert sum(one.n_inside for one in found.clusters) == len(island)


def test_documents_of_a_label_are_marked_by_its_latent_and_by_no_artefact(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    labels = np.array(explored.demo.labels)
    chosen = np.flatnonzero(labels == labels[1])
    found = marks(store, explored.ids[0], chosen.tolist(), holdings(store, explored.ids[0]))
    assert found.latents[0].latent == SPORT_LATENT
    assert found.tokens[0].name == " goal"
    assert found.labels[0].name == labels[1]
    assert found.labels[0].inside == 1
    assert found.artefacts == []


def test_what_rules_is_told_by_group(
    store: duckdb.DuckDBPyConnection, explored: Explored, island: list[int]
) -> None:
    rest = [doc for doc in range(len(explored.demo.labels)) if doc not in island]
    found = ruled(
        store, explored.ids[0], {0: island, 1: rest}, {0: list(ISLAND), 1: [*ISLAND, SPORT_LATENT]}
    )
    assert {at for at, one in found.items() if one.artefact} == {(0, latent) for latent in ISLAND}
    assert found[1, SPORT_LATENT].token == " goal"
    assert ruled(store, explored.ids[0], {}, {}) == {}


def test_what_can_not_be_answered_is_said(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    every = list(range(len(explored.demo.labels)))
    for chosen in ([], every):
        with pytest.raises(QueryError, match="choose some of them, and not all"):
            marks(store, explored.ids[0], chosen)
    with pytest.raises(QueryError, match="has no document"):
        marks(store, explored.ids[0], [0, 10_000])
    with pytest.raises(Missing, match="no latents"):
        holdings(store, "no such run")


@pytest.mark.parametrize("chosen", [[0], [7, 8], [], [0, 1, 2, 3], list(range(5, 40_000, 3))])
def test_a_set_of_documents_is_a_word_of_an_address(chosen: list[int]) -> None:
    text = packed(np.array(chosen, dtype=int))
    assert text.replace("-", "").replace("_", "").isalnum() or not text
    assert unpacked(text).tolist() == chosen


@pytest.mark.parametrize("text", ["ä", "a b", "AAAAA", "A" * 70_000])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(QueryError, match="selected"):
        unpacked(text)


def test_an_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=2e-4), pytest.approx(0.9433, abs=2e-4))
    assert wilson(0, 5)[0] == 0
