"""The store's macros against the dense arrays that the artifacts were made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from sklearn.metrics import roc_auc_score
from support.store_artifacts import D_SAE, DEAD, LABELS, SPORT_LATENT, TWINS, Planted

from deconstruct.store import open_store, run_id_of


@pytest.fixture(scope="module")
def store(two_runs: tuple[Path, Planted, Planted]) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store(two_runs[0]) as connection:
        yield connection


@pytest.fixture(scope="module")
def demo(two_runs: tuple[Path, Planted, Planted]) -> Planted:
    return two_runs[1]


@pytest.fixture(scope="module")
def other(two_runs: tuple[Path, Planted, Planted]) -> Planted:
    return two_runs[2]


def rows(store: duckdb.DuckDBPyConnection, query: str, *values: Any) -> list[dict[str, Any]]:
    result = store.execute(query, list(values))
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def pooled(planted: Planted) -> np.ndarray:
    """Mean activations [documents, D_SAE] over all tokens but BOS."""
    return np.stack(
        [
            planted.activations[(planted.doc_of == d) & ~planted.special].mean(0)
            for d in range(len(planted.labels))
        ]
    )


def context(planted: Planted, place: int, width: int, fires: np.ndarray) -> str:
    """The tokens around ``place`` in its document, it and the firing ones marked."""
    text = ""
    for near in range(place - width, place + width + 1):
        inside = 0 <= near < len(planted.tokens) and planted.doc_of[near] == planted.doc_of[place]
        if inside and not planted.special[near]:
            token = planted.tokens[near]
            bare = token.lstrip(" ")
            marks = "«»" if near == place else "‹›" if fires[near] else ("", "")
            text += f"{token[: -len(bare)]}{marks[0]}{bare}{marks[1]}"
    return text


def distinct(planted: Planted, places: Iterable[int], width: int) -> list[int]:
    """The first of ``places`` of each text that surrounds them."""
    first: dict[str, int] = {}
    for place in places:
        bare = context(planted, place, width, np.zeros(len(planted.tokens)))
        first.setdefault(re.sub("[«»]", "", bare), place)
    return list(first.values())


@pytest.mark.parametrize("latent", [0, SPORT_LATENT, 12])
@pytest.mark.parametrize(("n", "width"), [(20, 10), (3, 0), (1000, 2)])
def test_top_contexts(
    store: duckdb.DuckDBPyConnection, demo: Planted, latent: int, n: int, width: int
) -> None:
    strength = demo.activations[:, latent]
    ranked = [t for t in np.lexsort((np.arange(len(strength)), -strength)) if strength[t] > 0]
    expected = distinct(demo, ranked, width)[:n]
    found = rows(store, "FROM top_contexts('demo', ?, n := ?, width := ?)", latent, n, width)
    assert [row["token_index"] for row in found] == expected
    assert [row["rank"] for row in found] == list(range(1, len(expected) + 1))
    for row, token in zip(found, expected, strict=True):
        assert row["activation"] == strength[token]
        assert row["token"] == demo.tokens[token]
        assert row["context"] == context(demo, token, width, strength > 0)
        assert row["doc_id"] == demo.doc_of[token]
        assert row["position"] == demo.positions[token]
        assert row["label"] == demo.labels[demo.doc_of[token]]


def test_a_dead_latent_has_no_contexts(store: duckdb.DuckDBPyConnection) -> None:
    assert rows(store, "FROM top_contexts('demo', ?)", DEAD) == []


def test_top_tokens(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    found = rows(store, "FROM top_tokens('demo', 0)")
    fires = demo.activations[:, 0] > 0
    counts = {
        token: sum(f and t == token for f, t in zip(fires, demo.tokens, strict=True))
        for token in set(demo.tokens)
    }
    expected = sorted(((-n, t) for t, n in counts.items() if n))[:10]
    assert [(-row["n_fires"], row["token"]) for row in found] == expected
    assert [row["share"] for row in found] == [-n / fires.sum() for n, _ in expected]


def held_out(planted: Planted) -> np.ndarray:
    """Which documents are held out, [documents]."""
    return np.isin(np.arange(len(planted.labels)), planted.test_docs)


def test_latents_for_label(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    """Chosen and ordered by train documents, measured on held-out ones."""
    means, test = pooled(demo), held_out(demo)
    inside = np.array([label == LABELS[1] for label in demo.labels])
    found = rows(store, "FROM latents_for_label('demo', ?)", LABELS[1])
    assert found[0]["latent"] == SPORT_LATENT
    assert found[0]["auroc"] == 1
    assert found[0]["effect_rank"] == 1
    assert {row["latent"] for row in found} == set(range(D_SAE)) - {DEAD}

    def d(own: np.ndarray, rest: np.ndarray) -> float:
        return float((own.mean() - rest.mean()) / np.sqrt((own.var() + rest.var()) / 2))

    for row in found:
        latent = means[:, row["latent"]]
        train = d(latent[inside & ~test], latent[~inside & ~test])
        assert row["cohen_d_train"] == pytest.approx(train, rel=1e-4)
        own, rest = latent[inside & test], latent[~inside & test]
        assert row["difference"] == pytest.approx(own.mean() - rest.mean(), abs=1e-7)
        if row["cohen_d"] is not None:
            assert row["cohen_d"] == pytest.approx(d(own, rest), rel=1e-4)
            n, m = len(own), len(rest)
            half = 1.96 * np.sqrt(1 / n + 1 / m + row["cohen_d"] ** 2 / (2 * (n + m)))
            assert row["ci_high"] - row["cohen_d"] == pytest.approx(half)
            assert row["cohen_d"] - row["ci_low"] == pytest.approx(half)
        area = roc_auc_score(inside[test], latent[test].astype(np.float32))
        assert row["auroc"] == pytest.approx(area)
        assert row["documents_in"] == pytest.approx((own > 0).mean())
        assert row["weight"] == demo.weights[1, row["latent"]]
    strengths = [abs(row["cohen_d_train"]) for row in found]
    assert strengths == sorted(strengths, reverse=True)


def test_latents_that_separate_two_labels(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    means = pooled(demo).astype(np.float32)
    test = held_out(demo)
    a, b = (np.array([label == which for label in demo.labels]) & test for which in LABELS[:2])
    found = rows(store, "FROM latents_for_label('demo', ?, against := ?)", *LABELS[:2])
    assert found[0]["latent"] == SPORT_LATENT
    for row in found:
        own, rest = means[a, row["latent"]], means[b, row["latent"]]
        assert row["difference"] == pytest.approx(own.mean() - rest.mean(), abs=1e-6)
        area = roc_auc_score(a[a | b], means[a | b, row["latent"]])
        assert row["auroc"] == pytest.approx(area)
        assert row["weight"] == pytest.approx(
            demo.weights[0, row["latent"]] - demo.weights[1, row["latent"]]
        )
        assert row["effect_rank"] is None
    with pytest.raises(duckdb.InvalidInputException, match="has label 'nothing'"):
        rows(store, "FROM latents_for_label('demo', ?, against := 'nothing')", LABELS[0])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_enrichment_is_a_fisher_test(store: duckdb.DuckDBPyConnection, data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 100_000))
    good = data.draw(st.integers(0, total))
    drawn = data.draw(st.integers(0, total))
    hits = data.draw(st.integers(max(0, good + drawn - total), min(good, drawn)))
    (row,) = store.execute(
        "SELECT log_enrichment(?::BIGINT, ?::BIGINT, ?::BIGINT, ?::BIGINT)",
        [hits, drawn, good, total],
    ).fetchall()
    exact = hypergeom.logsf(hits - 1, total, good, drawn)
    assert row[0] >= exact - 1e-6 * max(1, abs(exact))  # never surer than the exact test
    if exact < np.log(0.05):
        assert row[0] <= exact + 0.5


def test_enrichment_of_noise_is_not_significant(
    store: duckdb.DuckDBPyConnection, demo: Planted
) -> None:
    found = rows(store, "FROM label_enrichment('demo') WHERE latent <> ?", SPORT_LATENT)
    assert len(found) > 60
    assert not [row for row in found if row["p_corrected"] < 0.05]


def test_token_enrichment(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    tokens = np.array(demo.tokens)
    recorded = ~demo.special
    found = rows(store, "FROM token_enrichment('demo')")
    assert (found[0]["latent"], found[0]["token"]) == (SPORT_LATENT, " goal")
    assert found[0]["share"] == 1
    assert sum(row["n_both"] for row in found) == (demo.activations > 0).sum()
    words = len(set(tokens[recorded]))
    for row in found[:: len(found) // 40]:
        own = demo.activations[:, row["latent"]] > 0
        inside = tokens == row["token"]
        assert row["n_both"] == (own & inside).sum()
        lift = row["n_both"] * recorded.sum() / (own.sum() * inside.sum())
        assert row["lift"] == pytest.approx(lift)
        assert row["p_corrected"] == pytest.approx(min(1, row["p_value"] * (D_SAE - 1) * words))
    alone = rows(store, "FROM token_enrichment('demo') WHERE latent = ?", SPORT_LATENT)
    assert alone == [row for row in found if row["latent"] == SPORT_LATENT]


def test_unusual_latents(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    density = (demo.activations > 0).sum(0) / (~demo.special).sum()
    found = rows(store, "FROM unusual_latents('demo', rare := 0.05, dense := 0.13)")
    assert {row["latent"]: row["kind"] for row in found} == {
        **dict.fromkeys(np.flatnonzero(density > 0.13), "dense"),
        **dict.fromkeys(np.flatnonzero((density < 0.05) & (density > 0)), "rare"),
        DEAD: "dead",
    }
    assert {row["kind"] for row in found} == {"dense", "rare", "dead"}


def test_error_by_token(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    errors = demo.errors.astype(np.float32).astype(float)
    tokens = np.array(demo.tokens)
    found = rows(store, "FROM error_by_token('demo', min_n := 25)")
    assert {row["token"] for row in found} == {t for t in demo.tokens if demo.tokens.count(t) >= 25}
    for row in found:
        error, norm = errors[tokens == row["token"]].T
        assert row["n"] == len(error)
        assert row["relative_error"] == pytest.approx(error.sum() / norm.sum())
        assert row["share_of_error"] == pytest.approx(error.sum() / errors[:, 0].sum())
    assert [-row["relative_error"] for row in found] == sorted(-r["relative_error"] for r in found)


def test_one_latent_across_runs(
    store: duckdb.DuckDBPyConnection, demo: Planted, other: Planted
) -> None:
    found = rows(store, "FROM latent_across_runs('demo', ?, n := 30)", SPORT_LATENT)
    assert [row["latent"] for row in found if row["correlation_rank"] == 1] == [SPORT_LATENT]
    assert {row["latent"] for row in found} == set(range(D_SAE))
    assert {row["run_id"] for row in found} == {run_id_of(other.artifacts)}
    own = demo.decoder[SPORT_LATENT]
    recorded = ~demo.special
    for row in found:
        theirs = other.decoder[row["latent"]]
        cosine = own @ theirs / np.linalg.norm(own) / np.linalg.norm(theirs)
        assert row["cosine"] == pytest.approx(cosine, rel=1e-4)
        if row["latent"] != DEAD:
            pair = (
                demo.activations[recorded, SPORT_LATENT],
                other.activations[recorded, row["latent"]],
            )
            phi = np.corrcoef(pair[0] > 0, pair[1] > 0)[0, 1]
            assert row["correlation"] == pytest.approx(phi, abs=1e-9)
    by_cosine = sorted(found, key=lambda row: row["cosine_rank"])
    assert [-row["cosine"] for row in by_cosine] == sorted(-row["cosine"] for row in found)
    best = rows(store, "FROM latent_across_runs('demo', ?, other := 'other')", SPORT_LATENT)
    assert 1 <= len(best) <= 2
    assert all(1 in (row["cosine_rank"], row["correlation_rank"]) for row in best)


def test_counterparts(store: duckdb.DuckDBPyConnection, demo: Planted, other: Planted) -> None:
    found = rows(store, "FROM counterparts('demo', 'other')")
    assert {row["latent"] for row in found} == set(range(D_SAE)) - {DEAD}
    by_latent = {row["latent"]: row for row in found}
    own = by_latent[SPORT_LATENT]  # fires on " goal" in both runs, and nothing else does
    strongest = np.argsort(-demo.activations[:, SPORT_LATENT])[:20]
    fires = (other.activations[strongest] > 0).sum(0)
    likely = sorted(range(D_SAE), key=lambda i: (-fires[i], i))[:8]
    assert SPORT_LATENT in likely
    unit = [d / np.linalg.norm(d, axis=1, keepdims=True) for d in (demo.decoder, other.decoder)]
    cosine = unit[0][SPORT_LATENT] @ unit[1].T
    best = max((i for i in likely if fires[i]), key=lambda i: cosine[i])
    assert own["counterpart"] == best
    assert own["cosine"] == pytest.approx(cosine[best], rel=1e-4)
    assert own["share"] == pytest.approx(fires[best] / 20)
    assert "mutual" not in own  # random rows are mutually nearest nearly half of the time


def test_a_run_is_its_own_counterpart(store: duckdb.DuckDBPyConnection) -> None:
    for row in rows(store, "FROM counterparts('demo', 'demo')"):
        assert row["counterpart"] == row["latent"] or row["latent"] in TWINS
        assert row["share"] == 1


def test_co_firing(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    a, b = demo.activations[:, TWINS[0]], demo.activations[:, 12]
    both = (a > 0) & (b > 0)
    assert both.sum() > 3
    product = (a * b).astype(np.float32)
    ranked = [t for t in np.lexsort((np.arange(len(a)), -product)) if both[t]]
    expected = distinct(demo, ranked, 2)
    found = rows(store, "FROM co_firing('demo', ?, 12, n := 3, width := 2)", TWINS[0])
    assert [row["token_index"] for row in found] == expected[:3]
    assert [row["context"] for row in found] == [context(demo, t, 2, both) for t in expected[:3]]
    assert {row["n_both"] for row in found} == {both.sum()}
    assert rows(store, "FROM co_firing('demo', 0, ?)", DEAD) == []


def test_fires_with(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    fires = demo.activations > 0
    recorded = (~demo.special).sum()
    found = rows(store, "FROM fires_with('demo', ?, n := 50)", TWINS[0])
    assert found[0]["latent"] == TWINS[1]
    assert found[0]["jaccard"] == 1
    for row in found:
        own, rest = fires[:, TWINS[0]], fires[:, row["latent"]]
        both = (own & rest).sum()
        assert row["n_both"] == both
        assert row["share"] == pytest.approx(both / own.sum())
        assert row["jaccard"] == pytest.approx(both / (own | rest).sum())
        assert row["lift"] == pytest.approx(both * recorded / (own.sum() * rest.sum()))


def test_compare_runs(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    found = {
        (row["stage"], row["metric"]): row
        for row in rows(store, "FROM compare_runs('demo', 'other')")
    }
    fvu = found["evaluation", "fvu"]
    assert (fvu["value_a"], fvu["value_b"]) == pytest.approx((0.2, 0.21))
    assert fvu["difference"] == pytest.approx(0.01)
    assert (fvu["paired"], fvu["n"]) == (True, len(demo.test_docs))
    assert fvu["ci_low"] < 0.01 < fvu["ci_high"]
    assert found["probe", "accuracy of latents, k = 5"]["value_a"] == 0.9
    nmi = found["cluster", "nmi"]
    assert (nmi["paired"], nmi["ci_low"], nmi["p_corrected"]) == (False, None, None)


def test_documents_in_cluster(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    found = rows(store, "FROM documents_in_cluster('demo', 1)")
    members = np.flatnonzero(demo.clusters == 1)
    assert [row["doc_id"] for row in found] == sorted(members, key=lambda d: (d * 7 % 11, d))
    assert all(row["label"] == demo.labels[row["doc_id"]] for row in found)


def test_probe_errors(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    means = pooled(demo)
    wrong = {d: (label, guess) for d, label, guess in demo.predictions if label != guess}
    found = rows(store, "FROM probe_errors('demo')")
    assert {row["doc_id"] for row in found} == set(wrong)
    for row in found:
        label, guess = wrong[row["doc_id"]]
        assert (row["label"], row["predicted"]) == (label, guess)
        push = (demo.weights[LABELS.index(guess)] - demo.weights[LABELS.index(label)]) * means[
            row["doc_id"]
        ]
        best = sorted((-push)[means[row["doc_id"]] > 0])[:5]
        assert [-p["push"] for p in row["pushed_by"]] == pytest.approx(best, rel=1e-4)


def test_worst_tokens(store: duckdb.DuckDBPyConnection, demo: Planted) -> None:
    relative = demo.errors[:, 0].astype(np.float32) / demo.errors[:, 1].astype(np.float32)
    found = rows(store, "FROM worst_tokens('demo', n := 5, width := 1)")
    expected = distinct(demo, np.argsort(-relative), 1)[:5]
    assert [row["token_index"] for row in found] == expected
    assert [row["token"] for row in found] == [demo.tokens[t] for t in expected]


def test_metrics_over_time(store: duckdb.DuckDBPyConnection, demo: Planted, other: Planted) -> None:
    found = rows(store, "FROM metrics_over_time()")
    assert [row["run_id"] for row in found] == [
        run_id_of(demo.artifacts),
        run_id_of(other.artifacts),
    ]
    assert [row["fvu_typical_change"] for row in found] == [None, None]  # the names differ
