"""Contexts over the whole range of a latent's activations."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from support.store_artifacts import DEAD, Planted

from deconstruct.store import open_store

QUERY = "SELECT quantile, low, high, n_fires, activation, token, context, doc_id, token_index "


@pytest.fixture(scope="module")
def store(two_runs: tuple[Path, Planted, Planted]):
    with open_store(two_runs[0]) as connection:
        yield connection


@pytest.mark.parametrize("latent", [0, 4, 12])
def test_parts_are_of_equal_count_and_contexts_from_different_documents(
    store: duckdb.DuckDBPyConnection, two_runs: tuple[Path, Planted, Planted], latent: int
) -> None:
    demo = two_runs[1]
    strength = np.sort(demo.activations[:, latent][demo.activations[:, latent] > 0])
    query = f"{QUERY} FROM contexts_by_quantile('demo', ?, quantiles := 4, n := 3, width := 4)"
    found = store.execute(query, [latent]).fetchall()
    assert [row[0] for row in found] == sorted((row[0] for row in found), reverse=True)
    parts = np.array_split(strength, 4)  # the first are the larger ones, as with ntile
    for part in range(1, 5):
        own = [row for row in found if row[0] == part]
        assert len(own) == 3
        assert len({row[7] for row in own}) == 3
        for _, low, high, n_fires, activation, token, context, doc_id, place in own:
            assert (low, high, n_fires) == (
                parts[part - 1][0], parts[part - 1][-1], len(parts[part - 1])
            )  # fmt: skip
            assert low <= activation <= high
            assert activation == demo.activations[place, latent]
            assert demo.doc_of[place] == doc_id
            assert f"«{token.strip(' ')}»" in context
    assert len({row[6] for row in found}) == len(found)
    assert store.execute(query, [latent]).fetchall() == found


def test_a_latent_with_fewer_firings_than_parts(store: duckdb.DuckDBPyConnection) -> None:
    assert store.execute("FROM contexts_by_quantile('demo', ?)", [DEAD]).fetchall() == []
