"""What pages ask of the store agrees with the macros and with what was planted."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pytest
from explorer.conftest import Explored
from support.drawn import DEAD, SPORT_LATENT, TWINS

from deconstruct.report.reading import document, latent, latents, partners, runs, search
from deconstruct.store import open_store


@pytest.fixture(scope="module")
def store(explored: Explored) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(explored.home) as connection:
        yield connection


@pytest.mark.parametrize("number", [SPORT_LATENT, *TWINS, 0])
def test_labels_are_those_of_the_macro(
    store: duckdb.DuckDBPyConnection, explored: Explored, number: int
) -> None:
    run = explored.ids[0]
    ours = {one.label: one for one in partners.labels(store, run, number)}
    theirs = store.execute(
        "SELECT label, lift, ci_low, ci_high, n_both, n_latent FROM label_enrichment(?) "
        "WHERE latent = ?",
        [run, number],
    ).fetchall()
    assert theirs
    for row in theirs:
        assert ours[row[0]] == pytest.approx(tuple(row), nan_ok=True)
    in_order = [one.label for one in ours.values() if one.label in {row[0] for row in theirs}]
    assert in_order == [row[0] for row in theirs]


@pytest.mark.parametrize("number", [SPORT_LATENT, *TWINS, 0])
def test_partners_of_few_firings_are_those_of_the_macro(
    store: duckdb.DuckDBPyConnection, explored: Explored, number: int
) -> None:
    run = explored.ids[0]
    ours = [one[:4] for one in partners.fires_with(store, run, number)]
    theirs = store.execute(
        "SELECT latent, share, jaccard, lift FROM fires_with(?, ?, n := 12)", [run, number]
    ).fetchall()
    assert np.allclose(ours, theirs)
    assert [row[0] for row in ours] == [row[0] for row in theirs]


def test_contexts_show_what_was_planted(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    run, demo = explored.ids[0], explored.demo
    dense = demo.activations[:, SPORT_LATENT]
    found = latent.top_contexts(store, run, SPORT_LATENT, n=5, width=4)
    strongest = np.sort(dense)[::-1]
    assert found[0].activation == strongest[0]
    for context in found:
        (peak,) = [token for token in context.tokens if token.peak]
        assert (peak.token, peak.activation) == (" goal", context.activation)
        assert demo.doc_of[context.token_index] == context.doc_id
    bands = latent.bands(store, run, SPORT_LATENT)
    assert sum(band.n for band in bands) == (dense > 0).sum()
    for band in bands:
        assert all(band.least <= one.activation <= band.most for one in band.contexts)
    assert [band.most for band in bands] == sorted((b.most for b in bands), reverse=True)
    assert [(band.low, band.high) for band in bands] == list(latent.FIFTHS)  # they stand ready
    assert all(1 <= len(band.contexts) <= 5 for band in bands)
    drawn = latent.bands(store, run, 0)  # of which none stand ready
    assert [(band.low, band.high) for band in drawn] == list(latent.BANDS)
    assert latent.top_contexts(store, run, DEAD) == latent.bands(store, run, DEAD) == []


def test_documents_latents_and_searches(
    store: duckdb.DuckDBPyConnection, explored: Explored
) -> None:
    run, demo = explored.ids[0], explored.demo
    tokens = document.tokens(store, run, 1, SPORT_LATENT)
    own = np.flatnonzero(demo.doc_of == 1)
    assert [token.token for token in tokens] == [demo.tokens[i] for i in own]
    assert [token.activation or 0 for token in tokens] == list(demo.activations[own, SPORT_LATENT])
    fires = document.on_token(store, run, int(own[4]))
    assert {one.latent for one in fires} == set(np.flatnonzero(demo.activations[own[4]]))
    rows, total = latents.latents(store, run, latents.Choice(sort="max"), 2, 5)
    assert (len(rows), total) == (5, 23)
    rows, _ = latents.latents(store, run, latents.Choice(kind="dead"), 0, 5)
    assert [row.latent for row in rows] == [DEAD]
    assert search.latents_on(store, run, " GOAL")[0].latent == SPORT_LATENT
    assert len(search.texts(store, run, "goal", most=7)) == 7
    assert search.texts(store, run, "no such words") == []
    assert {one.metric for one in runs.compared(store, *explored.ids)} >= {"fvu_typical", "l0"}
    assert [run for run, _ in runs.same_runs(store, run)] == [explored.ids[1]]
