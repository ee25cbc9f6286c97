"""Intervals of lift, by simulation and beside what is known of them."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy.stats import hypergeom
from support.store_artifacts import D_SAE, LABELS, SPORT_LATENT, Planted

from deconstruct.store import open_store


def intervals(store: duckdb.DuckDBPyConnection, counts: np.ndarray) -> np.ndarray:
    """lift, low, high [n, 3] of rows (n_both, fires, texts, n_label, label_texts, n, texts)."""
    given = ", ".join(str(tuple(map(float, row))) for row in counts)
    found = store.execute(
        "SELECT e.lift, e.low, e.high FROM (SELECT lift_interval(a, b, c, d, e, f, g) AS e "
        f"FROM (VALUES {given}) AS t(a, b, c, d, e, f, g))"
    ).fetchall()
    return np.array(found, dtype=float)


@pytest.mark.parametrize("fires", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("precision", [0.2, 0.5, 0.9])
def test_the_interval_of_a_lift_holds_the_truth(
    two_runs: tuple[Path, Planted, Planted], fires: float, precision: float
) -> None:
    """Over drawn corpora of 450 documents, a fifth of which have the label."""
    label, n, draws = 0.2, 450, 1000
    rest = (label - fires * precision) / (1 - fires)
    if rest < 0:
        pytest.skip("more would have the label than do")
    cells = [fires * precision, fires * (1 - precision), (1 - fires) * rest]
    draw = np.random.default_rng(0)
    both, alone, other, _ = draw.multinomial(n, [*cells, 1 - sum(cells)], draws).T
    seen = both + alone > 0
    r, s = (both + alone)[seen], (both + other)[seen]
    counts = np.stack([both[seen], r, r, s, s, np.full(len(r), n), np.full(len(r), n)], 1)
    with open_store(two_runs[0]) as store:
        lift, low, high = intervals(store, counts).T
    assert np.allclose(lift, counts[:, 0] / r * n / s)
    held = np.mean((low <= precision / label) & (precision / label <= high))
    assert 0.92 <= held <= 0.995


def test_label_enrichment(two_runs: tuple[Path, Planted, Planted]) -> None:
    """Ordered by the lower end on train documents, measured on held-out ones."""
    demo = two_runs[1]
    n = len(demo.labels)
    test = np.isin(np.arange(n), demo.test_docs)
    fires = np.stack([(demo.activations[demo.doc_of == d] > 0).any(0) for d in range(n)])
    with open_store(two_runs[0]) as store:
        result = store.execute("FROM label_enrichment('demo')")
        names = [column[0] for column in result.description or []]
        found = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    assert (found[0]["latent"], found[0]["label"]) == (SPORT_LATENT, LABELS[1])
    assert found[0]["p_corrected"] < 0.001
    pairs = {(i, label) for i in range(D_SAE) for label in LABELS}
    assert {(row["latent"], row["label"]) for row in found} == {
        (i, label)
        for i, label in pairs
        if (fires[:, i] & np.array([own == label for own in demo.labels])).any()
    }
    for row in found:
        inside = np.array([label == row["label"] for label in demo.labels])
        own = fires[:, row["latent"]]
        assert row["n_both"] == (own & inside & test).sum()
        assert row["n_latent"] == (own & test).sum()
        assert row["n_label"] == (inside & test).sum()
        for part, lift in ((test, row["lift"]), (~test, row["lift_train"])):
            if (own & part).any():
                ratio = (own & inside & part).sum() / (own & part).sum() / inside[part].mean()
                assert lift == pytest.approx(ratio)
        if row["lift"] is not None:
            assert row["ci_low"] <= row["lift"] <= row["ci_high"]
        exact = hypergeom.sf((own & inside).sum() - 1, n, inside.sum(), own.sum())
        assert row["p_value"] >= exact * (1 - 1e-9)
        assert row["p_corrected"] == pytest.approx(min(1, row["p_value"] * (D_SAE - 1) * 3))
    lows = [row["low_train"] for row in found if row["low_train"] is not None]
    assert lows == sorted(lows, reverse=True)
